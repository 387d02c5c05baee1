/* Runs a program, the file `.mnv2` that `mobilenetv2 convert` writes of a model: weights, and what to do with them for
 * images of one size. Plain C; docs/c.md says how it is built.
 *
 * A program is used by one thread at a time; several programs are independent of one another. */
#ifndef MOBILENETV2_H
#define MOBILENETV2_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(MNV2_EXPORTS)
#define MNV2_API __declspec(dllexport)
#elif defined(_WIN32)
#define MNV2_API
#else
#define MNV2_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mnv2_program mnv2_program;

typedef enum {
  MNV2_OK = 0,
  MNV2_BAD_ARGUMENT = 1, /* a null pointer, or a number that is out of range */
  MNV2_CANNOT_READ = 2,  /* the file cannot be opened or read */
  MNV2_BAD_FILE = 3,     /* not a program, damaged, or of a newer version */
  MNV2_NO_MEMORY = 4,
  MNV2_NOT_FINITE = 5 /* the weights are damaged or too large */
} mnv2_status;

typedef enum { MNV2_FLOAT32 = 0, MNV2_UINT8 = 1, MNV2_UINT16 = 2 } mnv2_type;

typedef struct {
  int batch; /* most images per run */
  int height, width, channels;
  size_t workspace_bytes; /* what a run of that many images works in, its results not included */
  int threads;            /* that run it */
} mnv2_input_info;

typedef struct {
  const char* name;
  mnv2_type type;              /* classes of pixels are MNV2_UINT8, of more than 256 classes MNV2_UINT16 */
  int height, width, channels; /* of one image; logits are 1 x 1 x classes, classes of pixels have one channel */
  const void* data; /* (images, height, width, channels) of the last run; of the program, until it is closed */
} mnv2_output_info;

/* Reads a program from memory, which may be freed afterwards. `threads`: how many run it, the calling one included; 0
 * for as many as the file says. `program` is set to null where it fails. */
MNV2_API mnv2_status mnv2_open(const void* data, size_t size, int threads, mnv2_program** program);

/* The same from a file. */
MNV2_API mnv2_status mnv2_open_file(const char* path, int threads, mnv2_program** program);

MNV2_API mnv2_status mnv2_input(const mnv2_program* program, mnv2_input_info* info);

/* `pixels`: (images, height, width, channels), RGB, 0 to 255, one row after another; `images` from 1 to the batch. */
MNV2_API mnv2_status mnv2_run(mnv2_program* program, const uint8_t* pixels, int images);

/* `index` from 0; MNV2_BAD_ARGUMENT behind the last output. */
MNV2_API mnv2_status mnv2_output(const mnv2_program* program, int index, mnv2_output_info* info);

/* The description of the model: JSON in UTF-8. */
MNV2_API const char* mnv2_info(const mnv2_program* program);

/* The name of a class in UTF-8; null where the model has no name for it. */
MNV2_API const char* mnv2_label(const mnv2_program* program, int index);

/* Frees a program; null is allowed. */
MNV2_API void mnv2_close(mnv2_program* program);

/* What went wrong in the last call on this thread that failed: a sentence. */
MNV2_API const char* mnv2_error(void);

#ifdef __cplusplus
}
#endif

#endif
