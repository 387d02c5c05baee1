"""Written files, run by their own runtimes and compared with ours.

One module per format has `run(path, pixels, checkpoint, options)`, which gives a file's results on
pixels (N, H, W, C) uint8 under the names of `writers.options.result_names`, whatever the file's own
axes, types and batch:

    logits, probabilities  (N, classes) float32
    features               (N, height, width, channels) float32
    scores of a segmenter  (N, height, width, classes) float32
    mask                   (N, height, width) uint8
    codes                  (N, anchors, 4) float32
    scores of a detector   (N, anchors, classes) float32
    boxes, scores, classes of "final" detections: a list with an array for each image, (n, 4)
                           x0, y0, x1, y1 in parts of the pixels, (n,) and (n,) indices of labels
"""
