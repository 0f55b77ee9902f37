// Runs kernels: see host.h. The sources of the kernels come before this by the build script, in namespaces of their own.

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <type_traits>
#include <vector>

#include "host.h"

namespace emulated {
thread_local Index3 thread_index, block_index, block_size, grid_size;
thread_local unsigned char* shared_memory;

namespace {
const size_t STACK_BYTES = 64 * 1024;

// What a fiber waits for.
enum Wait { NOTHING, WARP_BARRIER, BLOCK_BARRIER, END };

// A context starts a fiber; after that it is left and entered by jumps, which unlike changes of context are no calls of the system.
struct Fiber {
    ucontext_t context;
    jmp_buf left;
    bool has_started;
    std::vector<unsigned char> stack = std::vector<unsigned char>(STACK_BYTES);
    Wait wait;
    uint64_t given;
};

struct Warp {
    // Two, since lanes may give the next value before all have read the last.
    uint64_t lanes[2][32];
    unsigned turn;
};

struct Block {
    jmp_buf scheduler;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    unsigned current;
    void (*run)(void**);
    void** arguments;
};

thread_local Block block;

void enter() {
    block.run(block.arguments);
    block.fibers[block.current].wait = END;
    _longjmp(block.scheduler, 1);
}

void resume(Fiber& fiber) {
    if (_setjmp(block.scheduler) != 0) return;
    if (fiber.has_started) _longjmp(fiber.left, 1);
    fiber.has_started = true;
    setcontext(&fiber.context);
}

void wait_for(Wait wait) {
    Fiber& fiber = block.fibers[block.current];
    fiber.wait = wait;
    const Index3 index = thread_index;
    if (_setjmp(fiber.left) == 0) _longjmp(block.scheduler, 1);
    thread_index = index;
}

struct Entry {
    const char* name;
    void (*run)(void**);
};

std::vector<Entry>& kernels() {
    static std::vector<Entry> all;
    return all;
}

// Lets a waiting group go on if all of it that has not ended waits for the same; false when it does not.
bool release(unsigned from, unsigned to, Wait wait) {
    bool any = false;
    for (unsigned i = from; i < to; i++) {
        if (block.fibers[i].wait == wait) {
            any = true;
        } else if (block.fibers[i].wait != END) {
            return false;
        }
    }
    if (!any) return false;
    if (wait == WARP_BARRIER) {
        Warp& warp = block.warps[from / 32];
        warp.turn ^= 1;
        for (unsigned i = from; i < to; i++) warp.lanes[warp.turn][i - from] = block.fibers[i].given;
    }
    for (unsigned i = from; i < to; i++) {
        if (block.fibers[i].wait == wait) block.fibers[i].wait = NOTHING;
    }
    return true;
}

void run_block() {
    const unsigned n = block_size.x;
    for (unsigned i = 0; i < n; i++) {
        Fiber& fiber = block.fibers[i];
        fiber.wait = NOTHING;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = 0;
        fiber.has_started = false;
        makecontext(&fiber.context, enter, 0);
    }
    for (;;) {
        bool ran = false;
        // A warp goes on until it waits for the block, then the next one.
        for (unsigned from = 0; from < n; from += 32) {
            const unsigned to = from + 32 < n ? from + 32 : n;
            do {
                for (unsigned i = from; i < to; i++) {
                    if (block.fibers[i].wait != NOTHING) continue;
                    ran = true;
                    block.current = i;
                    thread_index = {i, 0, 0};
                    resume(block.fibers[i]);
                }
            } while (release(from, to, WARP_BARRIER));
        }
        if (release(0, n, BLOCK_BARRIER)) continue;
        unsigned n_ended = 0;
        for (unsigned i = 0; i < n; i++) n_ended += block.fibers[i].wait == END;
        if (n_ended == n) return;
        if (!ran) {
            std::fprintf(stderr, "a kernel would deadlock: the threads of a block wait for different barriers\n");
            std::abort();
        }
    }
}
}  // namespace

void block_barrier() { wait_for(BLOCK_BARRIER); }

const uint64_t* warp_exchange(uint64_t value) {
    block.fibers[block.current].given = value;
    const unsigned warp = block.current / 32;
    wait_for(WARP_BARRIER);
    return block.warps[warp].lanes[block.warps[warp].turn];
}

Kernel::Kernel(const char* name, void (*run)(void**)) { kernels().push_back({name, run}); }
}  // namespace emulated

// Whether there is such a kernel.
extern "C" int emulated_has(const char* name) {
    for (const auto& entry : emulated::kernels()) {
        if (std::strcmp(entry.name, name) == 0) return 1;
    }
    return 0;
}

// Runs a kernel to its end; 0 when there is none of this name.
extern "C" int emulated_launch(const char* name, unsigned grid_x, unsigned grid_y, unsigned n_threads, unsigned shared_bytes,
                               void** arguments) {
    using namespace emulated;
    void (*run)(void**) = 0;
    for (const auto& entry : kernels()) {
        if (std::strcmp(entry.name, name) == 0) run = entry.run;
    }
    if (run == 0) return 0;
    if (block.fibers.size() < n_threads) block.fibers.resize(n_threads);
    block.warps.resize((n_threads + 31) / 32);
    block.run = run;
    block.arguments = arguments;
    block_size = {n_threads, 1, 1};
    grid_size = {grid_x, grid_y, 1};
    const size_t guard = 32;
    std::vector<uint64_t> shared((shared_bytes + 7) / 8 + guard);
    shared_memory = (unsigned char*)shared.data();
    for (unsigned y = 0; y < grid_y; y++) {
        for (unsigned x = 0; x < grid_x; x++) {
            std::memset(shared.data(), 0xa5, shared.size() * 8);
            block_index = {x, y, 0};
            run_block();
            for (size_t i = shared.size() - guard; i < shared.size(); i++) {
                if (shared[i] != 0xa5a5a5a5a5a5a5a5u) {
                    std::fprintf(stderr, "`%s` wrote behind its shared memory of %u bytes\n", name, shared_bytes);
                    std::abort();
                }
            }
        }
    }
    return 1;
}
