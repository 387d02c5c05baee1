/* run_program MODEL.mnv2 PIXELS IMAGES > RESULTS: all outputs of a program, one behind another. */
#include <mobilenetv2.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char** argv) {
  mnv2_program* program;
  mnv2_input_info input;
  mnv2_output_info output;
  if (argc != 4) return 2;
  if (mnv2_open_file(argv[1], 0, &program)) return fprintf(stderr, "%s\n", mnv2_error()), 2;
  mnv2_input(program, &input);
  const int images = atoi(argv[3]);
  const size_t size = (size_t)input.height * input.width * input.channels * images;
  unsigned char* pixels = malloc(size);
  FILE* file = fopen(argv[2], "rb");
  if (!pixels || !file || fread(pixels, 1, size, file) != size) return 2;
  if (mnv2_run(program, pixels, images)) return fprintf(stderr, "%s\n", mnv2_error()), 1;
  for (int i = 0; mnv2_output(program, i, &output) == MNV2_OK; i++) {
    const size_t each = output.type == MNV2_FLOAT32 ? 4 : output.type == MNV2_UINT8 ? 1 : 2;
    fwrite(output.data, each, (size_t)images * output.height * output.width * output.channels, stdout);
  }
  fclose(file);
  free(pixels);
  mnv2_close(program);
  return 0;
}
