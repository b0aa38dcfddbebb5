// A stand-in for rsync that looks for ways out of the jail and prints what it finds, one
// "name=value" a line. What it does is told by --info=WORD.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/capability.h>

static void result(const char *name, long r) { printf("%s=%s\n", name, r < 0 ? strerror(errno) : "ok"); }

static void show(const char *path) {
	char b[64];
	int fd = open(path, O_RDONLY);
	if (fd < 0) {
		printf("%s=%s\n", path, strerror(errno));
		return;
	}
	ssize_t n = read(fd, b, sizeof b - 1);
	if (n < 0)
		printf("%s=%s\n", path, strerror(errno));
	else
		printf("%s=%.*s\n", path, (int)n, b);
	close(fd);
}

static void look(void) {
	uid_t r, e, s;
	getresuid(&r, &e, &s);
	printf("uid=%u %u %u\n", r, e, s);
	getresgid(&r, &e, &s);
	printf("gid=%u %u %u\n", r, e, s);
	printf("groups=%d\n", getgroups(0, NULL));
	printf("pid=%d\nppid=%d\n", getpid(), getppid());
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2] = {{0}};
	syscall(SYS_capget, &h, d);
	printf("capabilities=%x %x %x\n", d[0].effective | d[1].effective, d[0].permitted | d[1].permitted, d[0].inheritable | d[1].inheritable);
	int bounding = 0;
	for (int c = 0; prctl(PR_CAPBSET_READ, c, 0, 0, 0) >= 0; c++)
		bounding += prctl(PR_CAPBSET_READ, c, 0, 0, 0);
	printf("bounding=%d\n", bounding);
	printf("nonewprivs=%d\nseccomp=%d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
	DIR *root = opendir("/");
	printf("root=");
	if (!root)
		printf("%s", strerror(errno));
	for (struct dirent *x; root && (x = readdir(root));)
		printf("%s ", x->d_name);
	printf("\n");
	const char *paths[] = {"/etc/passwd", "/proc/self/status", "/sys", "/etc/hostname", "/usr", "/backups/b/d/absolute", "/backups/b/d/relative", "/backups/b/d/secret"};
	for (unsigned i = 0; i < sizeof paths / sizeof *paths; i++)
		show(paths[i]);
	result("create /x", open("/x", O_CREAT | O_WRONLY, 0600));
	result("create /backups/x", open("/backups/x", O_CREAT | O_WRONLY, 0600));
	result("create /dev/x", open("/dev/x", O_CREAT | O_WRONLY, 0600));
	result("write /backups/b/d/secret", open("/backups/b/d/secret", O_WRONLY));
	result("chmod /backups/b/d/secret", chmod("/backups/b/d/secret", 0777));
	result("remount", mount("", "/", "", MS_REMOUNT, ""));
	result("unshare user", unshare(CLONE_NEWUSER));
	result("unshare net", unshare(CLONE_NEWNET));
	result("clone user", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
	result("clone3", syscall(SYS_clone3, NULL, 0));
	result("socket", socket(AF_INET, SOCK_STREAM, 0));
	result("ptrace", ptrace(PTRACE_TRACEME, 0, 0, 0));
	result("setuid", setuid(0));
	result("chroot", chroot("/"));
	result("mknod", mknod("/backups/null", S_IFCHR | 0666, 0x103));
	char host[65] = "";
	gethostname(host, sizeof host);
	printf("hostname=%s\n", host);
	result("kill host", kill(2, 0));
	int open_files = 0;
	for (int fd = 0; fd < 1024; fd++)
		open_files += fcntl(fd, F_GETFD) >= 0;
	printf("descriptors=%d\n", open_files - (root != NULL));
	signal(SIGXFSZ, SIG_IGN);
	struct rlimit l;
	getrlimit(RLIMIT_FSIZE, &l);
	errno = EFBIG;
	result("filesize", l.rlim_max == 0 ? -1 : 0);
	result("memory", mmap(NULL, 2UL << 30, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0);
	fflush(stdout);
	int n = 1;
	for (;; n++) {
		pid_t p = fork();
		if (p == 0) {
			pause();
			_exit(0);
		}
		if (p < 0 || n > 1000)
			break;
	}
	printf("forks=%d\n", n);
}

int main(int argc, char **argv) {
	const char *what = "";
	for (int i = 1; i < argc; i++) {
		if (strncmp(argv[i], "--info=", 7) == 0)
			what = argv[i] + 7;
		if (strcmp(argv[i], "--version") == 0)
			return 0;
	}
	if (strcmp(what, "look") == 0) {
		look();
	} else if (strcmp(what, "hang") == 0) {
		printf("up\n");
		fflush(stdout);
		for (;;)
			pause();
	} else if (strcmp(what, "orphans") == 0) {
		int n = 0;
		while (fork() >= 0 && n++ < 1000)
			if (getpid() != 1)
				for (;;)
					pause();
		printf("forked\n");
	}
	return 0;
}
