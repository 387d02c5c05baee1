#include "network.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "cpu.hpp"
#include "execute.hpp"

namespace mobilenetv2 {
namespace {

constexpr std::size_t ALIGNMENT = 64;
constexpr std::size_t KEPT_FLOATS = std::size_t{16} << 20;  // larger workspaces are freed after the call

// Vectors of the next panel: as wide as the target goes, but never leaving a lone vector after a wide panel.
int next_panel(int vectors_left, int widest) {
  if (vectors_left == widest + 1 && widest > 2) return widest - 1;
  return std::min(vectors_left, widest);
}

}  // namespace

Buffer::Buffer(std::size_t floats) : bytes_(new unsigned char[floats * sizeof(float) + ALIGNMENT]), size_(floats) {
  const std::size_t past = reinterpret_cast<std::uintptr_t>(bytes_.get()) % ALIGNMENT;
  data_ = reinterpret_cast<float*>(bytes_.get() + (past ? ALIGNMENT - past : 0));
}

Network::Network(const std::string& isa, int threads) : kernels_(find_kernels(isa.c_str())), threads_(threads) {
  if (!kernels_) throw std::invalid_argument("no instruction set " + isa);
  if (threads < 1) throw std::invalid_argument("no threads");
  if (threads > 1) pool_ = std::make_unique<Pool>(threads);
}

int Network::add_matrix(const float* weights, const float* bias, int channels, int depth) {
  const int lanes = kernels_->lanes;
  const int vectors = (channels + lanes - 1) / lanes;
  Matrix matrix;
  matrix.channels = channels;
  matrix.depth = depth;
  matrix.bias = Buffer(static_cast<std::size_t>(vectors) * lanes);
  matrix.weights = Buffer(matrix.bias.size() * static_cast<std::size_t>(depth));
  for (int c = 0; c < vectors * lanes; c++) matrix.bias.data()[c] = c < channels ? bias[c] : 0.0f;
  float* to = matrix.weights.data();
  for (int done = 0; done < vectors;) {
    const int width = next_panel(vectors - done, kernels_->panel_vectors);
    matrix.panels.push_back({done * lanes, width, to - matrix.weights.data()});
    for (int k = 0; k < depth; k++) {
      for (int c = done * lanes; c < (done + width) * lanes; c++) {
        *to++ = c < channels ? weights[static_cast<std::ptrdiff_t>(c) * depth + k] : 0.0f;
      }
    }
    done += width;
  }
  if (!matrices_.empty()) matrix.begin = matrices_.back().begin + matrices_.back().weights.size() / BLOCK;
  matrices_.push_back(std::move(matrix));
  return static_cast<int>(matrices_.size()) - 1;
}

int Network::add_depthwise(const float* weights, const float* bias, int channels) {
  DepthwiseWeights packed;
  packed.channels = channels;
  packed.weights = Buffer(9 * static_cast<std::size_t>(channels));
  packed.bias = Buffer(static_cast<std::size_t>(channels));
  std::copy(weights, weights + packed.weights.size(), packed.weights.data());
  std::copy(bias, bias + channels, packed.bias.data());
  depthwises_.push_back(std::move(packed));
  return static_cast<int>(depthwises_.size()) - 1;
}

std::size_t Network::weight_bytes() const {
  std::size_t floats = 0;
  for (const Matrix& matrix : matrices_) floats += matrix.weights.size() + matrix.bias.size();
  for (const DepthwiseWeights& packed : depthwises_) floats += packed.weights.size() + packed.bias.size();
  return floats * sizeof(float);
}

std::size_t Plan::floats(int images) const {
  std::size_t most = 0;
  for (const Step& step : steps) {
    most = std::max(most, static_cast<std::size_t>(step.top) * static_cast<std::size_t>(images) +
                              step.scratch * static_cast<std::size_t>(threads));
  }
  return most;
}

std::shared_ptr<Plan> Network::plan(std::vector<Step> steps, int threads) const {
  auto plan = std::make_shared<Plan>();
  plan->threads = threads;
  for (Step& step : steps) step.scratch = scratch_floats(*this, step);
  plan->steps = std::move(steps);
  return plan;
}

void Network::run(const Plan& plan, const Images& images, float* answer, double* seconds) {
  Buffer workspace = take_workspace(plan.floats(images.count));
  const FlushSubnormals flush;
  std::vector<Ahead> ahead(static_cast<std::size_t>(plan.threads), Ahead(*this));
  Run run{*this, plan, images, answer, workspace.data(), nullptr, nullptr, 0, ahead.data(), seconds};
  if (pool_ && plan.threads > 1) {
    const std::lock_guard<std::mutex> lock(pool_mutex_);
    run.pool = pool_.get();
    execute(run);
  } else {
    Pool alone(1);
    run.pool = &alone;
    execute(run);
  }
  give_back(std::move(workspace));
}

Buffer Network::take_workspace(std::size_t floats) {
  Buffer found;
  {
    const std::lock_guard<std::mutex> lock(workspace_mutex_);
    if (!workspaces_.empty()) {
      found = std::move(workspaces_.back());
      workspaces_.pop_back();
    }
  }
  return found.size() >= floats ? std::move(found) : Buffer(floats);
}

void Network::give_back(Buffer workspace) {
  if (workspace.size() > KEPT_FLOATS) return;
  const std::lock_guard<std::mutex> lock(workspace_mutex_);
  if (workspaces_.size() < static_cast<std::size_t>(threads_ + 1)) workspaces_.push_back(std::move(workspace));
}

}  // namespace mobilenetv2
