// The C interface: arguments are checked, and no exception leaves it.

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "dialect.hpp"
#include "program.hpp"

#if !defined(MNV2_NO_FILES) && (defined(__unix__) || defined(__APPLE__))
#define MNV2_MAPS_FILES
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace {

using mobilenetv2::Buffer;
using mobilenetv2::Outcome;

#if defined(MNV2_NO_THREADS) || defined(MNV2_WEB_WORKERS)
char error[512];
#else
thread_local char error[512];
#endif

MNV2_PRINTF(2, 3) mnv2_status failed(mnv2_status status, const char* format, ...) {
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(error, sizeof(error), format, arguments);
  va_end(arguments);
  return status;
}

mnv2_status failed(const Outcome& outcome) {
  if (!outcome.part) return failed(outcome.status, "%s", outcome.what);
  return failed(outcome.status, "%s %d: %s", outcome.part, outcome.number, outcome.what);
}

#if !defined(MNV2_NO_FILES)

// The content of a file while it lives: mapped where systems do that. Null where it cannot be read, or is empty.
struct WholeFile {
  void* data = nullptr;
  std::size_t size = 0;

#if defined(MNV2_MAPS_FILES)
  explicit WholeFile(const char* path) {
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat facts{};
    if (file >= 0 && fstat(file, &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_size > 0) {
      size = static_cast<std::size_t>(facts.st_size);
      void* const mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
      if (mapped != MAP_FAILED) data = mapped;
    }
    if (file >= 0) close(file);
  }
  ~WholeFile() {
    if (data) munmap(data, size);
  }
#else
  explicit WholeFile(const char* path) {
    std::FILE* const file = std::fopen(path, "rb");
    if (!file) return;
    const long end = std::fseek(file, 0, SEEK_END) == 0 ? std::ftell(file) : -1;
    if (end > 0 && std::fseek(file, 0, SEEK_SET) == 0) {
      size = static_cast<std::size_t>(end);
      data = std::malloc(size);
      if (data && std::fread(data, 1, size, file) != size) {
        std::free(data);
        data = nullptr;
      }
    }
    std::fclose(file);
  }
  ~WholeFile() { std::free(data); }
#endif

  WholeFile(const WholeFile&) = delete;
  WholeFile& operator=(const WholeFile&) = delete;
};

#endif

// Calls a function that gives a status; where exceptions are built, only that of memory can come.
template <class F>
mnv2_status guarded(const F& call) {
#if defined(__cpp_exceptions)
  try {
    return call();
  } catch (...) {
    return failed(MNV2_NO_MEMORY, "%s", mobilenetv2::NO_MEMORY);
  }
#else
  return call();
#endif
}

mnv2_status open_aligned(const unsigned char* data, std::size_t size, int threads, const char* isa,
                         mnv2_program** program) {
  mnv2_program* const made = new (std::nothrow) mnv2_program;
  if (!made) return failed(MNV2_NO_MEMORY, "%s", mobilenetv2::NO_MEMORY);
  const mnv2_status status = guarded([&] {
    const Outcome outcome = mobilenetv2::read_program(data, size, threads, isa, *made);
    return outcome.status ? failed(outcome) : MNV2_OK;
  });
  if (status) {
    delete made;
  } else {
    *program = made;
  }
  return status;
}

}  // namespace

mnv2_status mobilenetv2::open_program(const void* data, std::size_t size, int threads, const char* isa,
                                      mnv2_program** program) {
  if (!program) return failed(MNV2_BAD_ARGUMENT, "program is null");
  *program = nullptr;
  if (!data) return failed(MNV2_BAD_ARGUMENT, "data is null");
  const unsigned char* const bytes = static_cast<const unsigned char*>(data);
  if (reinterpret_cast<std::uintptr_t>(data) % sizeof(double) == 0)
    return open_aligned(bytes, size, threads, isa, program);
  const Buffer<unsigned char> copy = Buffer<unsigned char>::if_there_is_memory(size);
  if (!copy.data()) return failed(MNV2_NO_MEMORY, "%s", mobilenetv2::NO_MEMORY);
  std::memcpy(copy.data(), bytes, size);
  return open_aligned(copy.data(), size, threads, isa, program);
}

extern "C" {

mnv2_status mnv2_open(const void* data, size_t size, int threads, mnv2_program** program) {
  return mobilenetv2::open_program(data, size, threads, nullptr, program);
}

// Without files, on a board, MNV2_NO_FILES leaves it out.
#if !defined(MNV2_NO_FILES)

mnv2_status mnv2_open_file(const char* path, int threads, mnv2_program** program) {
  if (!program) return failed(MNV2_BAD_ARGUMENT, "program is null");
  *program = nullptr;
  if (!path) return failed(MNV2_BAD_ARGUMENT, "path is null");
  const WholeFile file(path);
  if (!file.data) return failed(MNV2_CANNOT_READ, "%s: cannot be read, or is empty", path);
  const mnv2_status status = mnv2_open(file.data, file.size, threads, program);
  if (status) {
    char what[sizeof(error)];
    std::memcpy(what, error, sizeof(error));
    failed(status, "%s: %s", path, what);
  }
  return status;
}

#endif

mnv2_status mnv2_input(const mnv2_program* program, mnv2_input_info* info) {
  if (!program || !info) return failed(MNV2_BAD_ARGUMENT, "program or info is null");
  *info = {program->batch,    program->height,           program->width,
           program->channels, program->workspace.size(), program->plan->threads};
  return MNV2_OK;
}

mnv2_status mnv2_run(mnv2_program* program, const uint8_t* pixels, int images) {
  if (!program || !pixels) return failed(MNV2_BAD_ARGUMENT, "program or pixels is null");
  if (images < 1 || images > program->batch) {
    return failed(MNV2_BAD_ARGUMENT, "%d images: the program takes 1 to %d at once", images, program->batch);
  }
  return guarded([&] {
    const Outcome outcome = mobilenetv2::run_program(*program, pixels, images);
    return outcome.status ? failed(outcome) : MNV2_OK;
  });
}

mnv2_status mnv2_output(const mnv2_program* program, int index, mnv2_output_info* info) {
  if (!program || !info) return failed(MNV2_BAD_ARGUMENT, "program or info is null");
  const int count = static_cast<int>(program->outputs.size());
  if (index < 0 || index >= count) return failed(MNV2_BAD_ARGUMENT, "no output %d: there are %d", index, count);
  const mnv2_program::Output& output = program->outputs[static_cast<std::size_t>(index)];
  *info = {output.name, output.type, output.height, output.width, output.channels, output.data.data()};
  return MNV2_OK;
}

const char* mnv2_info(const mnv2_program* program) { return program ? program->description.data() : nullptr; }

const char* mnv2_label(const mnv2_program* program, int index) {
  if (!program || index < 0) return nullptr;
  const char* label = program->labels.data();
  const char* const end = label + program->labels.size();
  for (int i = 0; i < index && label != end; i++) label += std::strlen(label) + 1;
  return label != end ? label : nullptr;
}

void mnv2_close(mnv2_program* program) { delete program; }

const char* mnv2_error(void) { return error; }
}
