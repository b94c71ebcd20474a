// Runs kernels on request: reads launches from standard input, writes what they wrote to standard output.
//
// All kernels are compiled into this file (the Rust side appends their #include lines). Each launch runs twice, with the
// threads of a block in opposite orders: a result that depends on it lacks a barrier.
#include "emulation.hpp"

constexpr unsigned THREADS_OF_A_BLOCK = 256;
constexpr size_t STACK = 1 << 16, GUARD = 256;

struct Fiber {
  ucontext_t start;
  jmp_buf place;
  std::vector<char> stack = std::vector<char>(STACK);
  bool started, done;
};
static std::vector<Fiber> fibers(THREADS_OF_A_BLOCK);
static jmp_buf scheduler;
static const std::function<void()> *body;

static void fiber_main() {
  (*body)();
  fibers[threadIdx.x].done = true;
  _longjmp(scheduler, 1);
}

void __syncthreads() {
  if (_setjmp(fibers[threadIdx.x].place) == 0) _longjmp(scheduler, 1);
}

static void run_block(bool ascending) {
  for (Fiber &fiber : fibers) fiber.started = fiber.done = false;
  for (volatile unsigned waiting = THREADS_OF_A_BLOCK; waiting != 0;) {
    waiting = 0;
    for (volatile unsigned i = 0; i < THREADS_OF_A_BLOCK; i = i + 1) {
      threadIdx.x = ascending ? i : THREADS_OF_A_BLOCK - 1 - i;
      Fiber &fiber = fibers[threadIdx.x];
      if (fiber.done) continue;
      if (_setjmp(scheduler) == 0) {
        if (fiber.started) _longjmp(fiber.place, 1);
        fiber.started = true;
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.data();
        fiber.start.uc_stack.ss_size = STACK;
        makecontext(&fiber.start, fiber_main, 0);
        setcontext(&fiber.start);
      }
      if (!fibers[threadIdx.x].done) waiting = waiting + 1;
    }
    if (waiting != 0 && waiting != THREADS_OF_A_BLOCK)
      throw std::runtime_error("some threads of a block reach a barrier that others do not");
  }
}

// Arrays between guards of NaN: what is read beyond an end spoils the result, what is written there is noticed.
static std::vector<std::vector<uint8_t>> run(const Kernel &kernel, unsigned blocks, Arguments arguments, bool ascending) {
  std::vector<std::vector<uint8_t>> guarded;
  for (Argument &argument : arguments) {
    guarded.emplace_back(argument.bytes.size() + 2 * GUARD, 0xFF);
    std::memcpy(guarded.back().data() + GUARD, argument.bytes.data(), argument.bytes.size());
    argument.elements = guarded.back().data() + GUARD;
  }
  const std::function<void()> thread = kernel(arguments);
  body = &thread;
  gridDim.x = blocks;
  for (unsigned i = 0; i < blocks; i++) {
    blockIdx.x = ascending ? i : blocks - 1 - i;
    run_block(ascending);
  }
  std::vector<std::vector<uint8_t>> results;
  for (size_t i = 0; i < arguments.size(); i++) {
    const uint8_t *all = guarded[i].data();
    const size_t size = arguments[i].bytes.size();
    for (size_t k = 0; k < GUARD; k++)
      if (all[k] != 0xFF || all[GUARD + size + k] != 0xFF)
        throw std::runtime_error("it writes outside argument " + std::to_string(i));
    if (arguments[i].kind == Argument::OUT) results.emplace_back(all + GUARD, all + GUARD + size);
  }
  return results;
}

static bool read(void *to, size_t size) { return std::fread(to, 1, size, stdin) == size; }
static void write(const void *from, size_t size) {
  if (std::fwrite(from, 1, size, stdout) != size) std::exit(1);
}
template <typename T> static T read() {
  T result;
  if (!read(&result, sizeof result)) std::exit(1);
  return result;
}

// A launch: name, blocks, number of arguments, and of each kind, type, length, bytes. The answer: length and text of an
// error, or 0 and the bytes of each output in order.
int main() {
  uint32_t length;
  while (read(&length, sizeof length)) {
    std::string name(length, ' '), error;
    if (!read(name.data(), length)) return 1;
    const auto blocks = read<uint32_t>();
    Arguments arguments(read<uint32_t>());
    for (Argument &argument : arguments) {
      argument.kind = read<Argument::Kind>();
      argument.type = read<Argument::Type>();
      argument.bytes.resize(read<uint32_t>());
      if (!read(argument.bytes.data(), argument.bytes.size())) return 1;
    }
    std::vector<std::vector<uint8_t>> results;
    try {
      const auto kernel = kernels().find(name);
      if (kernel == kernels().end()) throw std::runtime_error("there is no such kernel");
      results = run(kernel->second, blocks, arguments, true);
      if (results != run(kernel->second, blocks, arguments, false))
        throw std::runtime_error("its result depends on the order of threads: a barrier is missing");
    } catch (const std::exception &caught) {
      error = name + ": " + caught.what();
    }
    length = uint32_t(error.size());
    write(&length, sizeof length);
    write(error.data(), error.size());
    if (error.empty())
      for (const auto &bytes : results) write(bytes.data(), bytes.size());
    std::fflush(stdout);
  }
}
