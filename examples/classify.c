/* Classifies an image with a program: classify model.mnv2 image.ppm
 *
 * The image is a PPM (P6) of the model's size, or raw RGB pixels, 0 to 255, in rows. Build:
 *     cc -O2 classify.c -I include libmobilenetv2.a -lstdc++ -lpthread -lm -o classify */
#include <math.h>
#include <mobilenetv2.h>
#include <stdio.h>
#include <stdlib.h>

static int read_pixels(const char* path, const mnv2_input_info* input, uint8_t* pixels) {
  const size_t size = (size_t)input->height * input->width * input->channels;
  int width, height, most;
  FILE* file = fopen(path, "rb");
  if (!file) return 0;
  if (fscanf(file, "P6 %d %d %d", &width, &height, &most) == 3) {
    if (width != input->width || height != input->height || most != 255) width = 0;
    fgetc(file);
  } else {
    width = input->width;
    rewind(file);
  }
  const int whole = width && fread(pixels, 1, size, file) == size && fgetc(file) == EOF;
  fclose(file);
  return whole;
}

int main(int argc, char** argv) {
  mnv2_program* program;
  mnv2_input_info input;
  mnv2_output_info output;
  if (argc != 3) return fprintf(stderr, "classify model.mnv2 image.ppm\n"), 2;
  if (mnv2_open_file(argv[1], 0, &program)) return fprintf(stderr, "%s\n", mnv2_error()), 2;
  mnv2_input(program, &input);
  uint8_t* pixels = malloc((size_t)input.height * input.width * input.channels);
  if (!pixels || !read_pixels(argv[2], &input, pixels)) {
    return fprintf(stderr, "%s: not %d x %d pixels\n", argv[2], input.width, input.height), 2;
  }
  if (mnv2_run(program, pixels, 1) || mnv2_output(program, 0, &output)) return fprintf(stderr, "%s\n", mnv2_error()), 1;

  const float* logits = output.data;
  double sum = 0, most = logits[0];
  for (int i = 1; i < output.channels; i++) most = fmax(most, logits[i]);
  for (int i = 0; i < output.channels; i++) sum += exp(logits[i] - most);
  for (int rank = 0, last = -1; rank < 5 && rank < output.channels; rank++) {
    int best = -1; /* the greatest of those behind the last one, in order */
    for (int i = 0; i < output.channels; i++) {
      const int left = last < 0 || logits[i] < logits[last] || (logits[i] == logits[last] && i > last);
      if (left && (best < 0 || logits[i] > logits[best])) best = i;
    }
    const char* label = mnv2_label(program, best);
    printf("%6.2f %%  %s\n", 100 * exp(logits[best] - most) / sum, label ? label : "");
    last = best;
  }
  free(pixels);
  mnv2_close(program);
  return 0;
}
