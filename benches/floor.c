// floor.c: what wrapping a command costs at least. No libc and no start-up code, so that nothing but the work is measured.
//
//   floor                          exits 0: a child of two system calls, execve and exit_group
//   floor wrap BASE PROG ARGS...   a run directory in BASE with status.json, harness.log (the command's output) and
//                                  run.json (written aside, then renamed); exits as PROG did
//   floor time COUNT PROG ARGS...  starts PROG COUNT times, its output going to the null device, and prints the
//                                  nanoseconds of each from before the start until after the end, one a line
//
// PROG is a path with a slash. Build: cc -O2 -static -nostdlib -ffreestanding -fno-builtin -fno-stack-protector
typedef long word;

#if defined(__x86_64__)
#define EITHER(x86, arm) x86
static inline word kernel(word number, word a, word b, word c, word d) {
  word result;
  register word fourth __asm__("r10") = d;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "0"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
                   : "rcx", "r11", "memory");
  return result;
}
__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall enter\n");
#elif defined(__aarch64__)
#define EITHER(x86, arm) arm
static inline word kernel(word number, word a, word b, word c, word d) {
  register word which __asm__("x8") = number, first __asm__("x0") = a, second __asm__("x1") = b;
  register word third __asm__("x2") = c, fourth __asm__("x3") = d, fifth __asm__("x4") = 0;
  __asm__ volatile("svc #0"
                   : "+r"(first)
                   : "r"(which), "r"(second), "r"(third), "r"(fourth), "r"(fifth)
                   : "memory");
  return first;
}
__asm__(".globl _start\n_start:\n\tmov x0, sp\n\tbl enter\n");
#else
#error "floor.c knows x86_64 and aarch64"
#endif

enum {
  CLOCK_GETTIME = EITHER(228, 113), CLONE = EITHER(56, 220), CLOSE = EITHER(3, 57), DUP3 = EITHER(292, 24),
  EXECVE = EITHER(59, 221), EXIT_GROUP = EITHER(231, 94), GETPID = EITHER(39, 172), MKDIRAT = EITHER(258, 34),
  OPENAT = EITHER(257, 56), RENAMEAT = EITHER(264, 38), WAIT4 = EITHER(61, 260), WRITE = EITHER(1, 64)
};
enum { HERE = -100, VFORK_FLAGS = 0x4111, WRITE_NEW = 02001101, APPEND_NEW = 02002101, READ = 02000000, FAILED = 120 };

static _Noreturn void leave(word code) {
  for (;;) kernel(EXIT_GROUP, code, 0, 0, 0);
}

static word must(word result) {
  if (result < 0) leave(FAILED);
  return result;
}

static char *text(char *end, const char *more) {
  while (*more) *end++ = *more++;
  return end;
}

static char *decimal(char *end, unsigned long value) {
  char digits[20];
  int count = 0;
  do digits[count++] = (char)('0' + value % 10);
  while (value /= 10);
  while (count) *end++ = digits[--count];
  return end;
}

static unsigned long nanoseconds(void) {
  word now[2] = {0, 0};
  kernel(CLOCK_GETTIME, 1, (word)now, 0, 0);
  return (unsigned long)now[0] * 1000000000UL + (unsigned long)now[1];
}

// The child borrows this frame until it executes, so it must never return from here: hence noinline.
static __attribute__((noinline)) word start(char **argv, char **envp, word output) {
  word pid = kernel(CLONE, VFORK_FLAGS, 0, 0, 0);
  if (pid) return must(pid);
  kernel(DUP3, output, 1, 0, 0);
  kernel(DUP3, output, 2, 0, 0);
  kernel(EXECVE, (word)argv[0], (word)argv, (word)envp, 0);
  leave(127);
}

static int wait_for(word pid) {
  int status = 0;
  must(kernel(WAIT4, pid, (word)&status, 0, 0));
  return status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff;
}

static void record(word dir, const char *name, const char *status, word pid, word code, unsigned long duration) {
  char line[256], *end = line;
  end = text(end, "{\"schema\":1,\"status\":\"");
  end = text(end, status);
  end = text(end, "\",\"pid\":");
  end = decimal(end, (unsigned long)pid);
  end = text(end, ",\"code\":");
  end = decimal(end, (unsigned long)code);
  end = text(end, ",\"duration_ns\":");
  end = decimal(end, duration);
  end = text(end, "}\n");
  word file = must(kernel(OPENAT, dir, (word)name, WRITE_NEW, 0600));
  must(kernel(WRITE, file, (word)line, end - line, 0));
  kernel(CLOSE, file, 0, 0, 0);
}

static _Noreturn void wrap(const char *base, char **argv, char **envp) {
  char path[512], *end = path;
  unsigned long began = nanoseconds();
  word own = kernel(GETPID, 0, 0, 0, 0);
  end = text(end, base);
  end = decimal(text(end, "/"), began);
  end = decimal(text(end, "-"), (unsigned long)own);
  *end = 0;
  must(kernel(MKDIRAT, HERE, (word)path, 0700, 0));
  word dir = must(kernel(OPENAT, HERE, (word)path, READ, 0));
  record(dir, "status.json", "running", own, 0, 0);
  word log = must(kernel(OPENAT, dir, (word) "harness.log", APPEND_NEW, 0600));
  word code = wait_for(start(argv, envp, log));
  record(dir, "run.json.new", code ? "failed" : "completed", own, code, nanoseconds() - began);
  must(kernel(RENAMEAT, dir, (word) "run.json.new", dir, (word) "run.json"));
  leave(code);
}

static _Noreturn void measure(const char *count, char **argv, char **envp) {
  word null = must(kernel(OPENAT, HERE, (word) "/dev/null", 02000001, 0));
  int left = 0, worst = 0;
  while (*count >= '0' && *count <= '9') left = left * 10 + *count++ - '0';
  while (left-- > 0) {
    char line[32], *end = line;
    unsigned long began = nanoseconds();
    int code = wait_for(start(argv, envp, null));
    end = decimal(end, nanoseconds() - began);
    *end++ = '\n';
    kernel(WRITE, 1, (word)line, end - line, 0);
    worst = code > worst ? code : worst;
  }
  leave(worst);
}

__attribute__((used)) void enter(word *stack) {
  word count = stack[0];
  char **argv = (char **)(stack + 1), **envp = argv + count + 1;
  if (count == 1) leave(0);
  if (count > 3 && argv[1][0] == 'w') wrap(argv[2], argv + 3, envp);
  if (count > 3 && argv[1][0] == 't') measure(argv[2], argv + 3, envp);
  leave(FAILED);
}
