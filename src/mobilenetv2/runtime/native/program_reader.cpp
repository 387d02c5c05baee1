// Reads the layers and steps of a program. Nothing in a file is believed: what is read here is checked against limits
// and against the file's size, and Network::plan checks the steps as it does those of Python.

#include "program_reader.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "execute.hpp"

namespace mobilenetv2 {
namespace {

// Reads one file into a program.
template <class T>
class Reader : ProgramView {
 public:
  Reader(const unsigned char* data, const ProgramHeader& header, mnv2_program& program, Network<T>& network)
      : ProgramView{data, header}, program_(program), network_(network), threads_(network.threads()) {}

  Outcome read() {
    MNV2_PASS(read_outputs());
    MNV2_PASS(read_padding());
    MNV2_PASS(read_layers(*this, network_));
    std::vector<Step> steps;
    MNV2_PASS(read_steps(steps));
    MNV2_PASS(check_images_and_answers(steps));
    Problem problem;
    program_.plan = network_.plan(std::move(steps), threads_, problem);
    if (problem.what) return {MNV2_BAD_FILE, problem.what, problem.step < 0 ? nullptr : "step", problem.step};
    MNV2_PASS(take_memory());
    return read_texts();
  }

 private:
  static constexpr bool floats() { return sizeof(T) == sizeof(float); }

  Outcome read_outputs() {
    const std::size_t outputs = count<OutputRecord>(OUTPUTS);
    MNV2_REQUIRE(outputs >= 1 && outputs <= MOST_INPUTS, "the number of outputs is out of range");
    for (std::size_t i = 0; i < outputs; i++) {
      const OutputRecord record = at<OutputRecord>(OUTPUTS, i);
      MNV2_REQUIRE(record.name[sizeof(record.name) - 1] == 0, "the name of an output has no end");
      for (const char* c = record.name; *c; c++)
        MNV2_REQUIRE(*c > ' ' && *c <= '~', "the name of an output is not ASCII");
      MNV2_REQUIRE(within(record.type, MNV2_FLOAT32, MNV2_UINT16), "an output is of an unknown type");
      MNV2_REQUIRE(within(record.channels, 1, MOST_CHANNELS) && within(record.height, 1, MOST_SIDE) &&
                       within(record.width, 1, MOST_SIDE),
                   "a size of an output is out of range");
      mnv2_program::Output output{{}, static_cast<mnv2_type>(record.type), record.channels, record.height, record.width,
                                  {}};
      std::memcpy(output.name, record.name, sizeof(record.name));
      program_.outputs.push_back(std::move(output));
    }
    return {};
  }

  Outcome read_padding() {
    MNV2_REQUIRE(count<float>(PADDING) == static_cast<std::size_t>(header.channels), "not one padding per channel");
    std::vector<float> padding;
    for (std::size_t i = 0; i < count<float>(PADDING); i++) {
      padding.push_back(at<float>(PADDING, i));
      MNV2_REQUIRE(floats() || (padding[i] >= 0 && padding[i] <= 255), "a padding is no byte");
    }
    network_.set_pixel_padding(std::move(padding));
    return {};
  }

  Outcome read_steps(std::vector<Step>& steps) const {
    for (std::size_t i = 0; i < count<StepRecord>(STEPS); i++) {
      Step step;
      Outcome outcome = read_step(at<StepRecord>(STEPS, i), step);
      if (outcome.status) {
        outcome.part = "step";
        outcome.number = static_cast<int>(i);
        return outcome;
      }
      steps.push_back(std::move(step));
    }
    return {};
  }

  Outcome read_step(const StepRecord& record, Step& step) const {
    constexpr std::int64_t line = LINE_BYTES / sizeof(T), most = static_cast<std::int64_t>(MOST_BYTES / sizeof(T));
    MNV2_REQUIRE(within(record.kind, 0, static_cast<int>(StepKind::TO_FLOAT)), "an unknown kind of step");
    for (const std::int32_t channels : {record.in_channels, record.out_channels}) {
      MNV2_REQUIRE(within(channels, 1, MOST_CHANNELS), "its channels are out of range");
    }
    for (const std::int32_t side : {record.in_height, record.in_width, record.out_height, record.out_width}) {
      MNV2_REQUIRE(within(side, 1, MOST_SIDE) && side * header.batch <= MOST_ROWS, "a size of it is out of range");
    }
    MNV2_REQUIRE(within(record.scratch, 0, most) && within(record.top, 0, most), "a place is out of range");
    MNV2_REQUIRE(record.scratch % line == 0 && record.top % line == 0, "a place is not aligned");
    MNV2_PASS(check_place(record.output));
    MNV2_REQUIRE(within(record.rounding.mode, 0, static_cast<int>(RoundingMode::TWICE_TO_FLOAT)),
                 "an unknown rounding");
    step.kind = static_cast<StepKind>(record.kind);
    step.output = static_cast<std::ptrdiff_t>(record.output);
    step.scratch = static_cast<std::ptrdiff_t>(record.scratch);
    step.top = static_cast<std::ptrdiff_t>(record.top);
    step.matrix = record.matrix;
    step.low = record.low;
    step.high = record.high;
    step.rounding = rounding_of(record.rounding);
    step.mean_factor = record.mean_factor;
    step.mean_divisor = record.mean_divisor;
    step.reads_floats = record.reads_floats != 0;
    step.signed_codes = record.signed_codes != 0;
    step.label_bytes = record.label_bytes;
    step.in_channels = record.in_channels;
    step.in_height = record.in_height;
    step.in_width = record.in_width;
    step.out_channels = record.out_channels;
    step.out_height = record.out_height;
    step.out_width = record.out_width;
    MNV2_REQUIRE(bytes(step.in_size(), 1) <= MOST_BYTES && bytes(step.out_size(), 1) <= MOST_BYTES, "it is too large");
    MNV2_REQUIRE(step.in_pixels() * 255 <= MOST_SUM, "it is too large");
    MNV2_PASS(read_inputs(record, step));
    MNV2_PASS(read_stages(record, step));
    fit_to_threads(step, record.chunk_channels);
    return {};
  }

  std::uint64_t bytes(std::uint64_t items, std::uint64_t each) const {
    return items * each * static_cast<std::uint64_t>(header.batch) * sizeof(float);
  }

  // A place that a step reads or writes.
  Outcome check_place(std::int64_t place) const {
    constexpr std::int64_t line = LINE_BYTES / sizeof(T), most = static_cast<std::int64_t>(MOST_BYTES / sizeof(T));
    const std::int64_t last = ANSWER - static_cast<std::int64_t>(program_.outputs.size()) + 1;
    MNV2_REQUIRE(within(place, last, most), "a place is out of range");
    MNV2_REQUIRE(place < 0 || place % line == 0, "a place is not aligned");
    return {};
  }

  Outcome read_inputs(const StepRecord& record, Step& step) const {
    const bool joins = step.kind == StepKind::CONCAT;
    MNV2_REQUIRE(within(record.inputs, 1, MOST_INPUTS), "the number of its inputs is out of range");
    const std::int64_t inputs = record.inputs, numbers = static_cast<std::int64_t>(count<std::int64_t>(NUMBERS));
    MNV2_REQUIRE(within(record.first_number, 0, numbers) && inputs * (joins ? 2 : 1) <= numbers - record.first_number,
                 "the file ends within its inputs");
    const std::size_t first = static_cast<std::size_t>(record.first_number);
    for (std::size_t i = 0; i < static_cast<std::size_t>(inputs); i++) {
      const std::int64_t place = at<std::int64_t>(NUMBERS, first + i);
      MNV2_PASS(check_place(place));
      step.inputs.push_back(static_cast<std::ptrdiff_t>(place));
      if (!joins) continue;
      const std::int64_t channels = at<std::int64_t>(NUMBERS, first + static_cast<std::size_t>(inputs) + i);
      MNV2_REQUIRE(within(channels, 1, MOST_CHANNELS), "its channels are out of range");
      step.input_channels.push_back(static_cast<int>(channels));
    }
    if (!joins || floats()) return {};
    const std::int64_t tables = static_cast<std::int64_t>(size(TABLES) / 256);
    MNV2_REQUIRE(within(record.first_table, 0, tables) && inputs <= tables - record.first_table,
                 "the file ends within its tables");
    const unsigned char* const table = begin(TABLES) + 256 * static_cast<std::size_t>(record.first_table);
    step.rescaling.assign(table, table + 256 * inputs);
    return {};
  }

  Outcome read_stages(const StepRecord& record, Step& step) const {
    const std::int64_t stages = static_cast<std::int64_t>(count<StageRecord>(STAGES));
    MNV2_REQUIRE(within(record.stages, 0, MOST_STAGES) && within(record.first_stage, 0, stages) &&
                     record.stages <= stages - record.first_stage,
                 "the file ends within its stages");
    MNV2_REQUIRE(within(record.stripes, 0, MOST_SIDE), "the number of its stripes is out of range");
    step.stripes = std::max(record.stripes, 1);
    for (int i = 0; i < record.stages; i++) {
      const StageRecord from = at<StageRecord>(STAGES, static_cast<std::size_t>(record.first_stage + i));
      MNV2_PASS(check_stage(from));
      if (step.stripes > 1) MNV2_PASS(check_edges(from));
      step.stages.push_back({from.in_height, from.in_width,      from.in_channels, from.wide_channels, from.out_height,
                             from.out_width, from.out_channels,  from.kernel,      from.stride,        from.dilation,
                             from.top,       from.left,          from.conv,        from.conv,          from.expand,
                             from.depthwise, from.project,       from.wide_low,    from.wide_high,     from.low,
                             from.high,      from.shortcut != 0, from.strip});
    }
    return {};
  }

  // Sizes whose products fit, and buffers that are no larger than a workspace may be.
  Outcome check_stage(const StageRecord& stage) const {
    for (const std::int32_t side :
         {stage.in_height, stage.in_width, stage.out_height, stage.out_width, stage.dilation}) {
      MNV2_REQUIRE(within(side, 1, MOST_SIDE), "a size of a stage is out of range");
    }
    for (const std::int32_t channels : {stage.in_channels, stage.out_channels}) {
      MNV2_REQUIRE(within(channels, 1, MOST_CHANNELS), "the channels of a stage are out of range");
    }
    MNV2_REQUIRE(within(stage.wide_channels, 0, MOST_CHANNELS), "the channels of a stage are out of range");
    MNV2_REQUIRE(within(stage.kernel, 1, MOST_KERNEL) && within(stage.stride, 1, MOST_STRIDE), "an unlikely kernel");
    MNV2_REQUIRE(within(stage.top, 0, MOST_SIDE) && within(stage.left, 0, MOST_SIDE), "a padding is out of range");
    MNV2_REQUIRE(within(stage.strip, 1, stage.out_height), "a strip is out of range");
    const auto wide =
        static_cast<std::uint64_t>(std::max({stage.wide_channels, stage.in_channels, stage.out_channels}));
    const auto reach = static_cast<std::uint64_t>((stage.kernel - 1) * stage.dilation + 1);
    const auto rows = static_cast<std::uint64_t>((stage.strip - 1) * stage.stride) + reach;
    const auto columns = std::max({static_cast<std::uint64_t>((stage.out_width - 1) * stage.stride) + reach,
                                   static_cast<std::uint64_t>(stage.left + stage.in_width),
                                   static_cast<std::uint64_t>(stage.out_width * stage.kernel)});
    MNV2_REQUIRE(rows * columns <= MOST_BYTES / wide && bytes(rows * columns, wide) <= MOST_BYTES,
                 "a stage is too large");
    const auto pixels = static_cast<std::uint64_t>(stage.in_height) * static_cast<std::uint64_t>(stage.in_width);
    const auto outputs = static_cast<std::uint64_t>(stage.out_height) * static_cast<std::uint64_t>(stage.out_width);
    MNV2_REQUIRE(std::max(pixels, outputs) * static_cast<std::uint64_t>(header.batch) <= MOST_BYTES, "it is too large");
    return {};
  }

  // The columns that a stripe keeps for the next one.
  Outcome check_edges(const StageRecord& stage) const {
    const auto items = static_cast<std::uint64_t>(stage.kernel * stage.dilation) *
                       static_cast<std::uint64_t>(stage.in_height) * static_cast<std::uint64_t>(stage.in_channels);
    MNV2_REQUIRE(items <= MOST_BYTES && bytes(items, 1) <= MOST_BYTES, "a stage is too large");
    return {};
  }

  // What depends on the threads that run the step, or on the target: rows and channels at once, and the rows that bands
  // keep for one another.
  void fit_to_threads(Step& step, int chunk_channels) const {
    if (step.stages.empty()) return;
    Stage &first = step.stages.front(), &last = step.stages.back();
    if (step.kind == StepKind::PLANE && first.expand >= 0 &&
        static_cast<std::size_t>(first.expand) < network_.matrices().size()) {
      const int units = (first.wide_channels + BLOCK - 1) / BLOCK / threads_;
      step.chunk = chunk_of(network_.matrix(first.expand), std::min(chunk_channels, std::max(units, 1) * BLOCK));
    }
    if (step.kind != StepKind::ROWS || threads_ == 1) return;
    last.strip = std::max(1, last.strip / 2);
    for (std::size_t i = step.stages.size() - 1; i > 0; i--) {
      const Stage& after = step.stages[i];
      Stage& before = step.stages[i - 1];
      before.strip = std::min(after.strip * after.stride, before.strip);
    }
    if (step.inputs.size() != 1 || step.inputs[0] != step.output) return;
    step.scratch = step.top;
    step.top += static_cast<std::ptrdiff_t>(
        up_to_line<T>(2 * static_cast<std::size_t>(first.dilation) * static_cast<std::size_t>(threads_ - 1) *
                      static_cast<std::size_t>(first.in_width) * static_cast<std::size_t>(first.in_channels)));
  }

  // As many panels as make so many channels, so that every chunk begins with a block.
  static int chunk_of(const Matrix<T>& matrix, int channels) {
    const int count = static_cast<int>(matrix.panels.size());
    const auto begins = [&](int panel) { return matrix.panels[static_cast<std::size_t>(panel)].channel; };
    int chunk = 1;
    while (chunk < count && (chunk + 1 < count ? begins(chunk + 1) : matrix.channels) <= channels) chunk++;
    const auto fits = [&] {
      for (int i = 0; i < count; i += chunk) {
        if (begins(i) % BLOCK != 0) return false;
      }
      return true;
    };
    while (chunk < count && !fits()) chunk++;
    return chunk;
  }

  // The image is of the header's size, and every output is written once, as its record says, before it is read.
  Outcome check_images_and_answers(const std::vector<Step>& steps) const {
    std::vector<std::size_t> written(program_.outputs.size());  // elements
    bool reads_image = false;
    for (const Step& step : steps) {
      for (std::size_t i = 0; i < step.inputs.size(); i++) {
        const std::ptrdiff_t input = step.inputs[i];
        if (input == IMAGE) {
          reads_image = true;
          MNV2_REQUIRE(
              step.in_channels == header.channels && step.in_height == header.height && step.in_width == header.width,
              "the image is of another size");
        } else if (input <= ANSWER) {
          const std::size_t index = static_cast<std::size_t>(ANSWER - input);
          const std::size_t size = step.kind == StepKind::CONCAT
                                       ? step.in_pixels() * static_cast<std::size_t>(step.input_channels[i])
                                       : step.in_size();
          MNV2_REQUIRE(program_.outputs[index].type == MNV2_FLOAT32 && written[index] == size,
                       "an output is read that is of another size");
        }
      }
      if (step.output > ANSWER) continue;
      const std::size_t index = static_cast<std::size_t>(ANSWER - step.output);
      const mnv2_program::Output& output = program_.outputs[index];
      const bool labels = step.kind == StepKind::LABELS;
      const mnv2_type type = !labels ? MNV2_FLOAT32 : step.label_bytes == 1 ? MNV2_UINT8 : MNV2_UINT16;
      const bool product = step.kind == StepKind::MATMUL;  // may make some pixels
      MNV2_REQUIRE(written[index] == (product ? static_cast<std::size_t>(step.scratch) : 0) && output.type == type &&
                       (product || (output.height == step.out_height && output.width == step.out_width)) &&
                       output.channels == (labels ? 1 : step.out_channels),
                   "an output is not as its step makes it");
      written[index] += step.out_size();
    }
    for (std::size_t i = 0; i < written.size(); i++) {
      const mnv2_program::Output& output = program_.outputs[i];
      const std::size_t size = static_cast<std::size_t>(output.height) * static_cast<std::size_t>(output.width) *
                               static_cast<std::size_t>(output.channels);
      MNV2_REQUIRE(output.type == MNV2_FLOAT32 ? written[i] == size : written[i] > 0, "an output is not made");
    }
    MNV2_REQUIRE(reads_image, "no step reads the image");
    return {};
  }

  Outcome take_memory() {
    std::uint64_t most = 0;
    const auto batch = static_cast<std::uint64_t>(header.batch);
    for (const Step& step : program_.plan->steps) {
      const std::uint64_t places = static_cast<std::uint64_t>(step.top) * batch;
      most = std::max(most, places + std::uint64_t{step.thread_scratch} * static_cast<std::uint64_t>(threads_));
    }
    MNV2_REQUIRE(most <= MOST_BYTES / sizeof(T), "it works in more memory than programs may");
    program_.workspace = Buffer<unsigned char>::if_there_is_memory(static_cast<std::size_t>(most) * sizeof(T));
    bool taken = program_.workspace.data() != nullptr;
    for (std::size_t i = 0; i < program_.outputs.size(); i++) {
      const std::uint64_t items = program_.plan->answer_sizes[i] * batch;
      const std::uint64_t size = items * static_cast<std::uint64_t>(program_.plan->answer_bytes[i]);
      MNV2_REQUIRE(size <= MOST_BYTES, "a result is larger than those of programs may be");
      program_.outputs[i].data = Buffer<unsigned char>::if_there_is_memory(static_cast<std::size_t>(size));
      taken = taken && program_.outputs[i].data.data();
      program_.answers.push_back(program_.outputs[i].data.data());
    }
    if (!taken) return {MNV2_NO_MEMORY, NO_MEMORY};
    return {};
  }

  Outcome read_texts() {
    const auto copied = [&](ProgramSection section, std::vector<char>& text) {
      text.assign(reinterpret_cast<const char*>(begin(section)),
                  reinterpret_cast<const char*>(begin(section)) + size(section));
    };
    copied(LABELS, program_.labels);
    MNV2_REQUIRE(program_.labels.empty() || program_.labels.back() == 0, "the last label has no end");
    copied(DESCRIPTION, program_.description);
    program_.description.push_back(0);
    return {};
  }

  mnv2_program& program_;
  Network<T>& network_;
  const int threads_;
};

}  // namespace

template <class T>
Outcome read_network(const unsigned char* data, const ProgramHeader& header, mnv2_program& program,
                     Network<T>& network) {
  return Reader<T>(data, header, program, network).read();
}

template Outcome read_network<float>(const unsigned char*, const ProgramHeader&, mnv2_program&, Network<float>&);
template Outcome read_network<std::uint8_t>(const unsigned char*, const ProgramHeader&, mnv2_program&,
                                            Network<std::uint8_t>&);

}  // namespace mobilenetv2
