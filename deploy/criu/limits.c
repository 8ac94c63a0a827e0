/*
 * CRIU reads the limits of a process that it dumps with prlimit(2). Of another user's process the kernel tells
 * them only to who has CAP_SYS_RESOURCE; root without it (a nested container, a hardened unit) is refused, and no
 * container with a user of its own could be moved. /proc/PID/limits says the same to everybody who may trace it.
 *
 * Loaded into Godwit's own CRIU by deploy/setup.sh, on such machines only. CRIU makes the call by number, through
 * the C library's syscall().
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static long kernel(long number, const long *a)
{
	long result;
	register long r10 __asm__("r10") = a[3];
	register long r8 __asm__("r8") = a[4];
	register long r9 __asm__("r9") = a[5];
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return result;
}

static rlim_t number(const char *text)
{
	return strcmp(text, "unlimited") == 0 ? RLIM_INFINITY : strtoull(text, NULL, 10);
}

/* The lines of /proc/PID/limits are in the order of the limits' numbers, after a heading (fs/proc/base.c). */
static int read_limit(int pid, int resource, struct rlimit *limit)
{
	char path[64], line[256], soft[32], hard[32];
	snprintf(path, sizeof(path), "/proc/%d/limits", pid);
	FILE *file = fopen(path, "re");
	if (file == NULL)
		return -1;
	int found = -1;
	for (int at = -1; fgets(line, sizeof(line), file) != NULL; at++) {
		if (at != resource)
			continue;
		if (strlen(line) > 26 && sscanf(line + 26, "%31s %31s", soft, hard) == 2) {
			limit->rlim_cur = number(soft);
			limit->rlim_max = number(hard);
			found = 0;
		}
		break;
	}
	fclose(file);
	return found;
}

long syscall(long name, ...)
{
	/* The caller's registers and stack hold six words in any case (System V ABI); the kernel takes what it needs. */
	long a[6];
	va_list arguments;
	va_start(arguments, name);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(arguments, long);
	va_end(arguments);
	long result = kernel(name, a);
	if (result == -EPERM && name == SYS_prlimit64 && a[2] == 0 && a[3] != 0 &&
	    read_limit((int)a[0], (int)a[1], (struct rlimit *)a[3]) == 0)
		return 0;
	if (result < 0 && result > -4096) {
		errno = (int)-result;
		return -1;
	}
	return result;
}
