/*
 * Lets CRIU leave out of a dump what has been sent before, on kernels that track no soft-dirty pages.
 *
 * CRIU asks its kernel once whether it has soft-dirty tracking, and refuses `track_mem` without. Godwit's agent
 * tracks writes by other means there (asynchronous userfaultfd write protection, Linux 6.7), and answers itself for
 * each page of which CRIU then says "my parent has it". With soft-dirty bits that are always 0 that is every page of
 * an address space for which the agent has told CRIU that there is a parent. Where the agent asks for it, CRIU sees but
 * the first page of each mapping of these: the agent has looked at the rest itself, and listing thousands of parts to it
 * took longer than everything else that a dump does.
 *
 * And it is spared a question: for the connections that the kernel's firewall tracks in the container's network
 * namespace, of which there are none, for it has no firewall. Where the kernel has no such tracking at all, the
 * question makes it look for a module, twice, while the container stands still.
 *
 * Preloaded by the agent, for dumps only, and only on such kernels. What CRIU finds out about its kernel goes into a
 * file of its own then: any other CRIU that believed it would lose memory.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define CACHE "/run/criu.kdat"
#define OWN_CACHE "/run/criu-godwit.kdat"
#define SOFT_DIRTY (1ULL << 55)

/* From linux/fs.h, which is older than this call on some systems that build this. */
#define SCAN_PAGEMAP _IOWR('f', 16, struct scan)
struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

static const char *own_cache(const char *path, char *room, size_t size)
{
	if (strncmp(path, CACHE, sizeof(CACHE) - 1) != 0)
		return path;
	snprintf(room, size, OWN_CACHE "%s", path + sizeof(CACHE) - 1);
	return room;
}

int open64(const char *path, int flags, ...)
{
	static int (*next)(const char *, int, ...);
	char room[64];
	va_list arguments;
	va_start(arguments, flags);
	int mode = va_arg(arguments, int);
	va_end(arguments);
	if (next == NULL)
		next = dlsym(RTLD_NEXT, "open64");
	return next(own_cache(path, room, sizeof(room)), flags, mode);
}

int rename(const char *from, const char *to)
{
	static int (*next)(const char *, const char *);
	char from_room[64], to_room[64];
	if (next == NULL)
		next = dlsym(RTLD_NEXT, "rename");
	return next(own_cache(from, from_room, sizeof(from_room)), own_cache(to, to_room, sizeof(to_room)));
}

int unlink(const char *path)
{
	static int (*next)(const char *);
	char room[64];
	if (next == NULL)
		next = dlsym(RTLD_NEXT, "unlink");
	return next(own_cache(path, room, sizeof(room)));
}

static int is_file_of_proc(int descriptor, const char *name)
{
	char link[32], target[64];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", descriptor);
	ssize_t length = readlink(link, target, sizeof(target));
	ssize_t wanted = (ssize_t)strlen(name);
	return length > wanted && length < (ssize_t)sizeof(target) && strncmp(target, "/proc/", 6) == 0 &&
	       memcmp(target + length - wanted, name, wanted) == 0;
}

/* The probe (kerndat_get_dirty_track) is the only one that reads a single entry of a pagemap with read(2). */
ssize_t read(int descriptor, void *buffer, size_t bytes)
{
	static ssize_t (*next)(int, void *, size_t);
	if (next == NULL)
		next = dlsym(RTLD_NEXT, "read");
	ssize_t result = next(descriptor, buffer, bytes);
	if (bytes == sizeof(uint64_t) && result == (ssize_t)bytes && is_file_of_proc(descriptor, "/pagemap"))
		*(uint64_t *)buffer |= SOFT_DIRTY;
	return result;
}

/* There is nothing to clear, and the kernel would walk through all of a frozen container's memory for it. */
ssize_t write(int descriptor, const void *buffer, size_t bytes)
{
	static ssize_t (*next)(int, const void *, size_t);
	if (next == NULL)
		next = dlsym(RTLD_NEXT, "write");
	if (bytes == 2 && memcmp(buffer, "4", 2) == 0 && is_file_of_proc(descriptor, "/clear_refs"))
		return (ssize_t)bytes;
	return next(descriptor, buffer, bytes);
}

/* Whether the agent has said of the address space that is being dumped that there is a parent. */
static int has_parent;

/* The only answer of a page server that is one byte long. */
ssize_t recv(int descriptor, void *buffer, size_t bytes, int flags)
{
	static ssize_t (*next)(int, void *, size_t, int);
	if (next == NULL)
		next = dlsym(RTLD_NEXT, "recv");
	ssize_t result = next(descriptor, buffer, bytes, flags);
	if (bytes == 1 && result == 1)
		has_parent = *(const char *)buffer != 0;
	return result;
}

int ioctl(int descriptor, unsigned long request, ...)
{
	static int (*next)(int, unsigned long, ...);
	va_list arguments;
	va_start(arguments, request);
	void *argument = va_arg(arguments, void *);
	va_end(arguments);
	if (next == NULL)
		next = dlsym(RTLD_NEXT, "ioctl");
	if (request != SCAN_PAGEMAP || !has_parent || getenv("GODWIT_NAME_MAPPINGS") == NULL)
		return next(descriptor, request, argument);
	struct scan *scan = argument;
	scan->max_pages = 1;
	int result = next(descriptor, request, argument);
	if (result >= 0)
		scan->walk_end = scan->end;
	return result;
}

/* The descriptor of a question that was not passed on; its answer is that there is nothing. */
static int unasked = -1;

static int asks_for_tracked_connections(const struct msghdr *message)
{
	const struct sockaddr_nl *address = message->msg_name;
	if (address == NULL || message->msg_namelen != sizeof(*address) || address->nl_family != AF_NETLINK ||
	    message->msg_iovlen != 1 || message->msg_iov->iov_len < sizeof(struct nlmsghdr))
		return 0;
	const struct nlmsghdr *header = message->msg_iov->iov_base;
	int subsystem = header->nlmsg_type >> 8;
	return (header->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP &&
	       (subsystem == NFNL_SUBSYS_CTNETLINK || subsystem == NFNL_SUBSYS_CTNETLINK_EXP);
}

ssize_t sendmsg(int descriptor, const struct msghdr *message, int flags)
{
	static ssize_t (*next)(int, const struct msghdr *, int);
	int protocol;
	socklen_t size = sizeof(protocol);
	if (asks_for_tracked_connections(message) &&
	    getsockopt(descriptor, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 && protocol == NETLINK_NETFILTER) {
		unasked = descriptor;
		return (ssize_t)message->msg_iov->iov_len;
	}
	if (next == NULL)
		next = dlsym(RTLD_NEXT, "sendmsg");
	return next(descriptor, message, flags);
}

ssize_t recvmsg(int descriptor, struct msghdr *message, int flags)
{
	static ssize_t (*next)(int, struct msghdr *, int);
	if (descriptor == unasked) {
		unasked = -1;
		return 0;
	}
	if (next == NULL)
		next = dlsym(RTLD_NEXT, "recvmsg");
	return next(descriptor, message, flags);
}
