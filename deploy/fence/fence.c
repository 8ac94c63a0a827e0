/*
 * The fence of a host: stops its containers when the host's lease has ended, whatever has become of the agent.
 *
 *   godwit-fence SOCKET OPEN_FOR_MS CONTROL FROZEN THAWED CONFIRM CONFIRMED LINK
 *
 * CONTROL is the freezer file of the cgroup that all containers are below, FROZEN and THAWED what is written to it,
 * CONFIRM the file that says CONFIRMED once every task stands still. LINK is the tunnel of the containers' network: it
 * is down while the fence is closed, so that the sockets of containers that stand still answer to nobody. The fence
 * knows one deadline, in nanoseconds of CLOCK_BOOTTIME (which goes on while a machine sleeps and takes no notice of who
 * sets the time of day). Once it has passed, the fence is closed, and only a later deadline that comes with the order
 * to lift it opens it again. It begins with a deadline OPEN_FOR_MS from now, since it cannot know what one before it
 * was told.
 *
 * It is a program of its own, in C, because it has to act when nothing else does: it needs neither the disk nor memory
 * that is not there yet, and goes before everybody else. It takes orders on the unix socket SOCKET, each two 64-bit
 * numbers (what, deadline), and answers each with four (what, deadline, state, now). What: 1 the deadline is this from
 * now on, 2 the same, and open, 3 how is it. State: 0 open, 1 closing, 2 closed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { EXTEND = 1, LIFT = 2, QUERY = 3 };
enum { OPEN = 0, CLOSING = 1, CLOSED = 2 };
enum { MOST_CLIENTS = 8, CLOSING_LOOK_MS = 5 };

struct order { uint64_t what, until; };
struct answer { uint64_t what, until, state, now; };

static const char *control, *frozen, *thawed, *confirm, *confirmed, *link_name;
static uint64_t deadline;
static uint64_t state = OPEN;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_BOOTTIME, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void say(const char *what) {
  char line[160];
  const int length = snprintf(line, sizeof line, "fence: %s\n", what);
  if (length > 0 && write(2, line, (size_t)length) < 0) return; /* nobody listens */
}

static int write_file(const char *path, const char *text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  const ssize_t written = write(fd, text, strlen(text));
  close(fd);
  return written < 0 ? -1 : 0;
}

static int stands_still(void) {
  char text[256];
  const int fd = open(confirm, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT; /* no cgroup: no containers */
  const ssize_t length = read(fd, text, sizeof text - 1);
  close(fd);
  if (length < 0) return 0;
  text[length] = 0;
  return strstr(text, confirmed) != NULL;
}

static void set_link(int up) {
  struct ifreq request = {0};
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  strncpy(request.ifr_name, link_name, IFNAMSIZ - 1);
  /* Before the first container there is none. */
  if (ioctl(fd, SIOCGIFFLAGS, &request) == 0) {
    request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
    ioctl(fd, SIOCSIFFLAGS, &request);
  }
  close(fd);
}

static void shut(void) {
  if (write_file(control, frozen) != 0 && errno != ENOENT) say("cannot write to the freezer");
  set_link(0);
  if (state == OPEN) say("the lease has ended: the containers of this host stand still");
  state = stands_still() ? CLOSED : CLOSING;
}

static void lift(uint64_t until) {
  if (now_ns() >= until) return; /* sent long ago, by an agent that stood still itself */
  if (write_file(control, thawed) != 0 && errno != ENOENT) {
    say("cannot write to the freezer");
    return;
  }
  set_link(1);
  if (state != OPEN) say("the lease is renewed: the containers of this host may go on");
  state = OPEN;
  /* The loop closes it at once should the deadline have passed meanwhile. */
}

static void arm(int timer) {
  struct itimerspec at = {0};
  const uint64_t ns = deadline == 0 ? 1 : deadline;
  if (state == OPEN && ns != UINT64_MAX) {
    at.it_value.tv_sec = (time_t)(ns / 1000000000u);
    at.it_value.tv_nsec = (long)(ns % 1000000000u);
  }
  timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

/* 0: the client is gone. */
static int serve(int client) {
  struct order order;
  const ssize_t length = recv(client, &order, sizeof order, MSG_DONTWAIT | MSG_WAITALL);
  if (length < 0) return errno == EAGAIN || errno == EINTR;
  if (length != (ssize_t)sizeof order) return 0;
  if (order.what == EXTEND || order.what == LIFT) deadline = order.until;
  if (order.what == LIFT) lift(order.until);
  const uint64_t now = now_ns();
  if (state == OPEN && now >= deadline) shut();
  const struct answer answer = {order.what, deadline, state, now};
  return send(client, &answer, sizeof answer, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof answer;
}

static int listen_on(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) return -1;
  strcpy(address.sun_path, path);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  unlink(path);
  umask(0177);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 8) != 0) return -1;
  return fd;
}

/* The last one to be killed for memory, the first one to run. What the host does not allow is done without. */
static void come_first(void) {
  const struct sched_param lowest = {.sched_priority = 1};
  if (write_file("/proc/self/oom_score_adj", "-1000") != 0) write_file("/proc/self/oom_score_adj", "-900");
  if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) say("its memory cannot be locked");
  if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &lowest) != 0) setpriority(PRIO_PROCESS, 0, -20);
}

int main(int argc, char **argv) {
  if (argc != 9) {
    say("usage: godwit-fence SOCKET OPEN_FOR_MS CONTROL FROZEN THAWED CONFIRM CONFIRMED LINK");
    return 2;
  }
  char lock_path[4096];
  snprintf(lock_path, sizeof lock_path, "%s.lock", argv[1]);
  control = argv[3], frozen = argv[4], thawed = argv[5];
  confirm = argv[6], confirmed = argv[7], link_name = argv[8];
  deadline = now_ns() + strtoull(argv[2], NULL, 10) * 1000000u;
  for (int number = 1; number <= SIGTERM; number += 1)
    if (number == SIGPIPE || number == SIGHUP || number == SIGINT) signal(number, SIG_IGN);
  const int lock = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) != 0) return 3; /* there is one already */
  const int listener = listen_on(argv[1]);
  const int timer = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
  if (listener < 0 || timer < 0) {
    say("cannot listen on its socket");
    return 1;
  }
  come_first();
  /* Left closed by one before it: it stays so. */
  if (stands_still() && access(confirm, R_OK) == 0) state = CLOSED;
  struct pollfd fds[2 + MOST_CLIENTS] = {{listener, POLLIN, 0}, {timer, POLLIN, 0}};
  nfds_t count = 2;
  for (;;) {
    if (state == OPEN && now_ns() >= deadline) shut();
    if (state == CLOSING) shut();
    arm(timer);
    if (poll(fds, count, state == CLOSING ? CLOSING_LOOK_MS : -1) < 0) continue;
    uint64_t expirations;
    if (fds[1].revents != 0 && read(timer, &expirations, sizeof expirations) < 0) continue;
    for (nfds_t at = count; at-- > 2;) {
      if (fds[at].revents == 0) continue;
      if (serve(fds[at].fd)) continue;
      close(fds[at].fd);
      fds[at] = fds[--count];
    }
    if (fds[0].revents != 0) {
      const int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (client >= 0 && count < 2 + MOST_CLIENTS) fds[count++] = (struct pollfd){client, POLLIN, 0};
      else if (client >= 0) close(client);
    }
  }
}
