// Times ArcticInference's suffix tree on rollouts from a file: insert, memory, and a replay of the scored drafts.
// Input, int32: groups, then for each group its past sequences and the rollouts to replay (count, then length and tokens).
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <span>
#include <vector>

#include "suffix_tree.h"

using Tokens = std::vector<int32_t>;
constexpr int kDepth = 24, kBudget = 8;

static int32_t number(std::ifstream& in) {
    int32_t value = 0;
    in.read(reinterpret_cast<char*>(&value), 4);
    return value;
}

static std::vector<Tokens> sequences(std::ifstream& in) {
    std::vector<Tokens> all(number(in));
    for (auto& one : all) {
        one.resize(number(in));
        in.read(reinterpret_cast<char*>(one.data()), 4 * static_cast<std::streamsize>(one.size()));
    }
    return all;
}

static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int main(int, char** arguments) {
    std::ifstream in(arguments[1], std::ios::binary);
    double insert_s = 0, replay_s = 0;
    long inserted = 0, bytes = 0, steps = 0;
    for (int groups = number(in); groups > 0; --groups) {
        auto past = sequences(in), rollouts = sequences(in);
        SuffixTree shared(kDepth);
        double start = now();
        for (size_t i = 0; i < past.size(); ++i) shared.extend(static_cast<int>(i), past[i]);
        insert_s += now() - start;
        for (auto& one : past) inserted += static_cast<long>(one.size());
        bytes += static_cast<long>(shared.estimate_memory());
        for (auto& rollout : rollouts) {
            SuffixTree own(kDepth);
            int id = static_cast<int>(past.size()), n = static_cast<int>(rollout.size()), p = 0;
            start = now();
            while (p < n) {
                int from = p > kDepth ? p - kDepth : 0, right = 0;
                std::span<const int32_t> context(rollout.data() + from, p - from);
                if (p > 0) {
                    Draft draft = own.speculate(context, kBudget, 1.0f, 0.0f, 0.1f, false);
                    Draft other = shared.speculate(context, kBudget, 1.0f, 0.0f, 0.1f, false);
                    if (other.score > draft.score) draft = other;
                    int most = std::min(static_cast<int>(draft.token_ids.size()), n - p);
                    while (right < most && draft.token_ids[right] == rollout[p + right]) ++right;
                }
                int end = std::min(n, p + right + 1);
                for (; p < end; ++p) own.append(0, rollout[p]), shared.append(id, rollout[p]);
                ++steps;
            }
            replay_s += now() - start;
            shared.remove(id);
        }
    }
    std::printf("%.9g %.9g %.9g\n", inserted / insert_s, static_cast<double>(bytes) / inserted, steps / replay_s);
}
