/* The worker's sandbox, in children of this test: what is left works, what is gone fails or kills,
 * the limits hold. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/channel/shm.h"
#include "daemon/worker/sandbox.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

/* Runs body in a child inside the sandbox; returns the wait status. body's value is the exit code.
 */
static Status (*enter)(void) = sandbox_enter;

static int in_sandbox(int (*body)(void)) {
  fflush(NULL);
  pid_t pid = fork();
  if (!pid) {
    signal(SIGABRT, SIG_DFL);
    Status st = enter();
    _exit(st ? 99 : body());
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return status;
}

static void expect_exit(int (*body)(void), int code) {
  int status = in_sandbox(body);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), code);
}

static int denied(int result) { return result == -1 && errno == EPERM ? 0 : 1; }

static int open_file(void) { return denied(open("/etc/passwd", O_RDONLY)); }
static int create_file(void) { return denied(creat("/tmp/kiln-sandbox-test", 0600)); }
static int make_socket(void) { return denied(socket(AF_INET, SOCK_STREAM, 0)); }
static int make_unix_socket(void) { return denied(socket(AF_UNIX, SOCK_STREAM, 0)); }
static int fork_process(void) { return denied(fork()); }
static int remove_file(void) { return denied(unlink("/tmp/kiln-sandbox-test")); }
static int look_at_file(void) {
  struct stat s;
  return denied(stat("/etc/passwd", &s));
}
static int kill_parent(void) { return denied(kill(getppid(), 0)); }

static void test_denied(void **state) {
  (void)state;
  expect_exit(open_file, 0);
  expect_exit(create_file, 0);
  expect_exit(make_socket, 0);
  expect_exit(make_unix_socket, 0);
  expect_exit(fork_process, 0);
  expect_exit(remove_file, 0);
  expect_exit(look_at_file, 0);
  expect_exit(kill_parent, 0);
}

static int execute(void) {
  char *args[] = {(char *)(uintptr_t) "true", NULL};
  execv("/bin/true", args);
  return 1;
}

static void test_killed(void **state) {
  (void)state;
  int status = in_sandbox(execute);
  assert_true(WIFSIGNALED(status));
  assert_int_equal(WTERMSIG(status), SIGSYS);
}

static int work(void) {
  char *p = malloc(50 << 20); /* more than malloc takes from brk */
  int fd;
  if (!p) return 1;
  memset(p, 1, 50 << 20);
  free(p);
  Status st = shm_from_bytes("test", (Bytes){(const uint8_t *)"hello", 5}, &fd);
  if (!st) st = shm_check(fd, 5);
  if (st) return 2;
  if (close(fd)) return 3;
  void *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return mprotect(code, 4096, PROT_READ | PROT_EXEC) ? 4 : 0;
}
static int give_up(void) { abort(); }

static void test_allowed(void **state) {
  (void)state;
  expect_exit(work, 0);
  int status = in_sandbox(give_up);
  assert_true(WIFSIGNALED(status));
  assert_int_equal(WTERMSIG(status), SIGABRT);
}

static void *other_thread(void *arg) {
  int *go = arg;
  while (!__atomic_load_n(go, __ATOMIC_ACQUIRE)) usleep(1000);
  return (void *)(intptr_t)denied(open("/etc/passwd", O_RDONLY));
}

/* The filter holds in threads that exist already. */
static void test_threads(void **state) {
  (void)state;
  pid_t pid = fork();
  if (!pid) {
    pthread_t thread;
    void *result = (void *)1;
    int go = 0;
    pthread_create(&thread, NULL, other_thread, &go);
    Status st = sandbox_enter();
    __atomic_store_n(&go, 1, __ATOMIC_RELEASE);
    pthread_join(thread, &result);
    _exit(st ? 99 : (int)(intptr_t)result);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
}

static int run_program(void) {
  int status;
  pid_t pid = fork();
  if (!pid) _exit(execl("/bin/true", "true", (char *)NULL));
  return waitpid(pid, &status, 0) != pid || status;
}
static int use_files(void) {
  int fd = open("/etc/passwd", O_RDONLY);
  return fd < 0 || close(fd);
}
static int connect_out(void) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = 80};
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  return denied(connect(fd, (struct sockaddr *)&to, sizeof to));
}
static int trace(void) { return (int)ptrace(PTRACE_TRACEME, 0, NULL, NULL); }

static void test_driver(void **state) {
  (void)state;
  enter = sandbox_enter_driver;
  expect_exit(use_files, 0);
  expect_exit(run_program, 0);
  expect_exit(connect_out, 0);
  int status = in_sandbox(trace);
  assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
  enter = sandbox_enter;
}

static void test_cpu_limit(void **state) {
  (void)state;
  pid_t pid = fork();
  if (!pid) {
    Status st = sandbox_limit_cpu(1);
    if (!st)
      for (volatile unsigned long i = 0;; i++)
        ;
    _exit(99);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFSIGNALED(status));
  assert_int_equal(WTERMSIG(status), SIGXCPU);
}

/* What a compile worker is given, and all that a worker that was taken over would try first. */
static void test_a_worker_that_tries(void **state) {
  (void)state;
  if (SANITIZED) skip(); /* the sanitizer's shadow is address space too */
  pid_t pid = fork();
  if (!pid) {
    size_t much = (size_t)100 << 30;
    Status st = sandbox_limit_memory(4ull << 30);
    if (!st) st = sandbox_limit_cpu(60);
    if (!st) st = sandbox_enter();
    if (st) _exit(99);
    struct rlimit wide = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_AS, &wide); /* it may ask; the hard limit is not its to raise */
    if (open_file() || make_socket() || make_unix_socket()) _exit(1);
    if (open("/dev/shm/x", O_RDWR | O_CREAT, 0600) != -1) _exit(2);
    if (malloc(much)) _exit(3);
    void *at = mmap(NULL, much, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at != MAP_FAILED) _exit(4);
    struct rlimit left;
    _exit(getrlimit(RLIMIT_CPU, &left) || left.rlim_cur > 120 ? 5 : 0);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
}

static void test_memory_limit(void **state) {
  (void)state;
  if (SANITIZED) skip(); /* the sanitizer's shadow is address space too */
  pid_t pid = fork();
  if (!pid) {
    Status st = sandbox_limit_memory(64 << 20);
    void *small = malloc(16 << 20), *large = malloc(256 << 20);
    _exit(st ? 99 : !small ? 1 : large ? 2 : 0);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
}

/* An abort says whether it was for want of memory. */
static void test_abort(void **state) {
  (void)state;
  if (SANITIZED) skip();
  for (int hungry = 0; hungry < 2; hungry++) {
    pid_t pid = fork();
    if (!pid) {
      signal(SIGABRT, SIG_DFL); /* not cmocka's */
      Status st = sandbox_limit_memory(64 << 20);
      if (!st) st = sandbox_enter();
      while (!st && hungry && malloc(1 << 20))
        ;
      if (!st) abort();
      _exit(99);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (hungry)
      assert_true(WIFEXITED(status) && WEXITSTATUS(status) == SANDBOX_OOM);
    else
      assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_denied),    cmocka_unit_test(test_killed),
      cmocka_unit_test(test_allowed),   cmocka_unit_test(test_threads),
      cmocka_unit_test(test_cpu_limit), cmocka_unit_test(test_memory_limit),
      cmocka_unit_test(test_abort),     cmocka_unit_test(test_a_worker_that_tries),
      cmocka_unit_test(test_driver),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
