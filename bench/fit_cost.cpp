// Levenberg-Marquardt over the logarithms of the six constants: they stay positive, and errors are relative.
#include "fit_cost.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "core/cost.h"

namespace samebits::bench {
namespace {

constexpr int kSize = 6;
using Vector = std::array<double, kSize>;
using Matrix = std::array<Vector, kSize>;

// Where the search starts and what a constant that the samples do not show stays near: microseconds, microseconds,
// microseconds for a thousand elements, times the bandwidth bound, shares.
constexpr Vector kTypical = {1.0, 1.0, 1.0, 1.0, 0.3, 0.1};
constexpr double kPull = 0.02;  // weight of staying there
constexpr int kSteps = 60;
constexpr double kDifference = 1e-4;  // of a logarithm, for the derivatives

Cost cost_of(const Vector& logs) {
  Vector v;
  for (int i = 0; i < kSize; ++i) v[i] = std::exp(logs[i]);
  return {v[0], v[1], v[2], v[3], v[4], v[5]};
}

std::vector<double> residuals(Tile& tile, std::span<const Sample> samples, const Vector& logs) {
  tile.cost = cost_of(logs);
  std::vector<double> r;
  for (const Sample& s : samples)
    r.push_back(std::sqrt(s.weight) * std::log(predicted_us(tile, *s.device, s.m, s.n, s.k) / s.us));
  for (int i = 0; i < kSize; ++i) r.push_back(kPull * (logs[i] - std::log(kTypical[i])));
  return r;
}

double dot(const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

/// x of a x = b by Gaussian elimination; a is positive definite.
Vector solve(Matrix a, Vector b) {
  for (int i = 0; i < kSize; ++i)
    for (int row = i + 1; row < kSize; ++row) {
      const double factor = a[row][i] / a[i][i];
      for (int col = i; col < kSize; ++col) a[row][col] -= factor * a[i][col];
      b[row] -= factor * b[i];
    }
  for (int i = kSize - 1; i >= 0; --i) {
    for (int col = i + 1; col < kSize; ++col) b[i] -= a[i][col] * b[col];
    b[i] /= a[i][i];
  }
  return b;
}

double three_digits(double x) { return std::stod(fmt::format("{:.3g}", x)); }

}  // namespace

Cost fit_cost(Tile tile, std::span<const Sample> samples) {
  Vector logs;
  for (int i = 0; i < kSize; ++i) logs[i] = std::log(kTypical[i]);
  std::vector<double> r = residuals(tile, samples, logs);
  double damping = 1e-2;
  for (int step = 0; step < kSteps && damping < 1e6; ++step) {
    std::array<std::vector<double>, kSize> slopes;
    for (int i = 0; i < kSize; ++i) {
      Vector moved = logs;
      moved[i] += kDifference;
      slopes[i] = residuals(tile, samples, moved);
      for (size_t j = 0; j < r.size(); ++j) slopes[i][j] = (slopes[i][j] - r[j]) / kDifference;
    }
    Matrix square;
    Vector down;
    for (int i = 0; i < kSize; ++i) {
      for (int j = 0; j < kSize; ++j) square[i][j] = dot(slopes[i], slopes[j]);
      down[i] = -dot(slopes[i], r);
    }
    for (bool better = false; !better && damping < 1e6;) {
      Matrix damped = square;
      for (int i = 0; i < kSize; ++i) damped[i][i] += damping;
      const Vector move = solve(damped, down);
      Vector next = logs;
      for (int i = 0; i < kSize; ++i) next[i] += move[i];
      std::vector<double> r_next = residuals(tile, samples, next);
      better = dot(r_next, r_next) < dot(r, r);
      damping = better ? std::max(damping / 3, 1e-9) : damping * 4;
      if (better) std::swap(logs, next), std::swap(r, r_next);
    }
  }
  const Cost cost = cost_of(logs);
  return {three_digits(cost.launch_us), three_digits(cost.tile_us),    three_digits(cost.k_us),
          three_digits(cost.memory),    three_digits(cost.contention), three_digits(cost.spill)};
}

}  // namespace samebits::bench
