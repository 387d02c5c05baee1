// Stages over strips of rows: the wide tensor of an inverted residual exists only as the rows that the strip at hand
// needs, and where stages are chained, so do the tensors between them.

#include <algorithm>
#include <cstring>

#include "execute.hpp"
#include "worker.hpp"

namespace mobilenetv2 {
namespace {

// Elements of the rows of all stripes' edges, for each stage that copies some.
template <class T>
std::size_t edges_size(const Stage& stage) {
  return up_to_line<T>(elements(stage.in_height, edge_columns(stage), stage.in_channels));
}

// A chain at work on one band of one image, one stripe after another.
template <class T>
struct Chain {
  const Run<T>& run;
  const Step& step;
  int image, begin, end;  // output rows
  const Input<T>& input;
  Ahead<T>& ahead;

  // Runs the stages from `index` on on top of `source`; the last one writes to `out`.
  void produce(const Stripe& stripe, std::size_t index, Worker<T>* source, T* wide, T* edges, T* scratch,
               const Pixels<T>& out, float* floats) const {
    const Stage& stage = stripe.stages[index];
    const bool last = index + 1 == stripe.stages.size();
    Worker<T> worker(run, stage, stripe.columns[index], source, image, source ? Input<T>{} : input, ahead, wide, edges,
                     scratch, last ? floats : nullptr);
    if (last) return worker.produce(begin, end - begin, out);
    produce(stripe, index + 1, &worker, wide, edges + edges_size<T>(step.stages[index]), scratch, out, floats);
  }
};

template <class T>
std::size_t widest(const std::vector<Stage>& stages) {
  std::size_t most = 0;
  for (const Stage& stage : stages) most = std::max(most, Room<T>(stage, false).wide);
  return up_to_line<T>(most);
}

template <class T>
std::size_t all_edges(const Step& step) {
  std::size_t size = 0;
  for (const Stage& stage : step.stages) size += step.stripes > 1 ? edges_size<T>(stage) : 0;
  return size;
}

// How threads share the rows of a step.
template <class T>
struct Bands {
  const Run<T>& run;
  const Step& step;
  const Stage &first, &last;
  const T* const input;  // null for the caller's own image
  const int count;       // of one image
  const bool in_place;   // then a band overwrites what its neighbours still need: copies of halo rows on both sides of
  const int halo;        // each edge between bands

  Bands(const Run<T>& its_run, const Step& its_step)
      : run(its_run),
        step(its_step),
        first(step.stages.front()),
        last(step.stages.back()),
        input(step.inputs[0] == IMAGE ? nullptr : run.tensor(step.inputs[0])),
        count(run.images.count % run.hands(step) == 0 ? 1 : std::min(run.hands(step), last.out_height)),
        in_place(input && step.inputs[0] == step.output),
        halo(in_place ? halo_rows(first) : 0) {}

  std::size_t in_rows(int rows) const { return elements(rows, first.in_width, first.in_channels); }
  int edge(int i) const { return static_cast<int>(static_cast<long long>(last.out_height) * i / count); }
  // The rows on both sides of the end of a band.
  T* kept(int image, int band) const {
    return run.tensor(step.scratch) + in_rows(2 * halo * (image * (count - 1) + band));
  }

  void keep_edges() const {
    for (int image = 0; image < run.images.count; image++) {
      for (int band = 0; band + 1 < count; band++) {
        const int from = std::max(edge(band + 1) - halo, 0), to = std::min(edge(band + 1) + halo, first.in_height);
        std::memcpy(kept(image, band) + in_rows(from - (edge(band + 1) - halo)),
                    input + in_rows(image * first.in_height + from), in_rows(to - from) * sizeof(T));
      }
    }
  }

  void run_band(int image, int band, int slot) const {
    Input<T> rows{input, 0, first.in_height, nullptr, nullptr, 0, first.in_width};
    if (input) rows.image += in_rows(image * first.in_height);
    if (in_place && band > 0) {
      rows.begin = edge(band);
      rows.above = kept(image, band - 1);
    }
    if (in_place && band + 1 < count) {
      rows.end = edge(band + 1);
      rows.below = kept(image, band) + in_rows(halo);
    }
    const bool to_floats = makes_floats(run.network, step);
    T* const output = to_floats ? nullptr : run.tensor(step.output);
    T* const edges = run.scratch_of(step, slot);
    T* const wide = edges + all_edges<T>(step);
    for (int i = 0; i < step.stripes; i++) {
      const Stripe stripe(step, i);
      rows.column = stripe.in_column;
      const auto place = [&](int y) {
        return elements(image * last.out_height + y, last.out_width, last.out_channels) +
               elements(1, stripe.out_column, last.out_channels);
      };
      const Pixels<T> out{output ? output + place(edge(band)) : nullptr, last.out_channels, BLOCK, 0,
                          step.stripes > 1 ? last.out_width : 0};
      const Chain<T> chain{run, step, image, edge(band), edge(band + 1), rows, run.ahead[slot]};
      chain.produce(stripe, 0, nullptr, wide, edges, wide + widest<T>(stripe.stages), out,
                    to_floats ? run.floats(step.output) + place(0) : nullptr);
    }
  }
};

}  // namespace

template <class T>
std::size_t rows_scratch_size(const Step& step) {
  std::size_t most = 0;
  for (int i = 0; i < step.stripes; i++) {
    const Stripe stripe(step, i);
    std::size_t total = widest<T>(stripe.stages);
    for (const Stage& stage : stripe.stages) total += Room<T>(stage, &stage != &stripe.stages.front()).kept();
    most = std::max(most, total);
  }
  return most + all_edges<T>(step);
}

std::size_t rows_scratch(const Step& step, int item_bytes) {
  if (item_bytes == sizeof(float)) return rows_scratch_size<float>(step);
  return item_bytes == 1 ? rows_scratch_size<std::uint8_t>(step) : rows_scratch_size<bfloat16>(step);
}

template <class T>
void run_rows(const Run<T>& run, const Step& step) {
  const Bands<T> bands(run, step);
  if (bands.in_place) bands.keep_edges();
  run.share(step, run.images.count * bands.count, [&run, &step](int task, int slot) {
    const Bands<T> own(run, step);  // made again sooner than read from the caller's stack
    own.run_band(task / own.count, task % own.count, slot);
  });
}

#define MNV2_INSTANTIATE(T)                               \
  template std::size_t rows_scratch_size<T>(const Step&); \
  template void run_rows<T>(const Run<T>&, const Step&);
MNV2_EACH_TYPE(MNV2_INSTANTIATE)

}  // namespace mobilenetv2
