/* Preloaded into Postfix and Sendmail, so that a test needs nothing of the machine that it runs on.

   INTEROP_HOSTNAME  what gethostname() says. Sendmail sleeps for a minute at start where the name has no dot.
   INTEROP_SYSLOG    a file that gets the lines meant for syslog. Sendmail says what TLS it used only there.
   INTEROP_IDENTITY  if set, changing user or owner "succeeds" and the first user is root: Postfix's master
                     wants to be root, and a developer does not. Nothing is gained by it but that.  */

#define _GNU_SOURCE
#include <fcntl.h>
#include <grp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LINE_BYTES_MAX 4096
#define SETTING_BYTES_MAX 1024

static char hostname[SETTING_BYTES_MAX], syslog_path[SETTING_BYTES_MAX];
static int pretending;

/* Read once, before main: Sendmail clears its environment. */
__attribute__((constructor)) static void read_settings(void) {
    const char *wanted = getenv("INTEROP_HOSTNAME"), *path = getenv("INTEROP_SYSLOG");
    snprintf(hostname, sizeof hostname, "%s", wanted ? wanted : "interop.test");
    snprintf(syslog_path, sizeof syslog_path, "%s", path ? path : "");
    pretending = getenv("INTEROP_IDENTITY") != NULL;
}

int gethostname(char *name, size_t bytes) {
    snprintf(name, bytes, "%s", hostname);
    return 0;
}

int __gethostname_chk(char *name, size_t bytes, size_t limit) {
    return gethostname(name, bytes < limit ? bytes : limit);
}

void vsyslog(int priority, const char *format, va_list arguments) {
    char line[LINE_BYTES_MAX];
    int length, file;
    (void)priority;
    if (!syslog_path[0])
        return;
    length = vsnprintf(line, sizeof line - 1, format, arguments);
    if (length < 0)
        return;
    if (length > (int)sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    file = open(syslog_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0)
        return;
    /* A lost log line makes a test fail, which is how it will be noticed. */
    if (write(file, line, length) != length)
        abort();
    close(file);
}

void syslog(int priority, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsyslog(priority, format, arguments);
    va_end(arguments);
}

void __vsyslog_chk(int priority, int flag, const char *format, va_list arguments) {
    (void)flag;
    vsyslog(priority, format, arguments);
}

void __syslog_chk(int priority, int flag, const char *format, ...) {
    va_list arguments;
    (void)flag;
    va_start(arguments, format);
    vsyslog(priority, format, arguments);
    va_end(arguments);
}

void openlog(const char *name, int options, int facility) {
    (void)name, (void)options, (void)facility;
}

void closelog(void) {
}

/* One process, one set of pretended ids: real and effective, user and group. */
static uid_t user, effective_user;
static gid_t group, effective_group;

uid_t getuid(void) {
    return pretending ? user : (uid_t)syscall(SYS_getuid);
}
uid_t geteuid(void) {
    return pretending ? effective_user : (uid_t)syscall(SYS_geteuid);
}
gid_t getgid(void) {
    return pretending ? group : (gid_t)syscall(SYS_getgid);
}
gid_t getegid(void) {
    return pretending ? effective_group : (gid_t)syscall(SYS_getegid);
}

int setuid(uid_t wanted) {
    if (!pretending)
        return syscall(SYS_setuid, wanted);
    user = effective_user = wanted;
    return 0;
}
int seteuid(uid_t wanted) {
    if (!pretending)
        return syscall(SYS_setresuid, -1, wanted, -1);
    effective_user = wanted;
    return 0;
}
int setreuid(uid_t real, uid_t effective) {
    if (!pretending)
        return syscall(SYS_setreuid, real, effective);
    if (real != (uid_t)-1)
        user = real;
    if (effective != (uid_t)-1)
        effective_user = effective;
    return 0;
}
int setresuid(uid_t real, uid_t effective, uid_t saved) {
    return pretending ? setreuid(real, effective) : syscall(SYS_setresuid, real, effective, saved);
}
int setgid(gid_t wanted) {
    if (!pretending)
        return syscall(SYS_setgid, wanted);
    group = effective_group = wanted;
    return 0;
}
int setegid(gid_t wanted) {
    if (!pretending)
        return syscall(SYS_setresgid, -1, wanted, -1);
    effective_group = wanted;
    return 0;
}
int setregid(gid_t real, gid_t effective) {
    if (!pretending)
        return syscall(SYS_setregid, real, effective);
    if (real != (gid_t)-1)
        group = real;
    if (effective != (gid_t)-1)
        effective_group = effective;
    return 0;
}
int setresgid(gid_t real, gid_t effective, gid_t saved) {
    return pretending ? setregid(real, effective) : syscall(SYS_setresgid, real, effective, saved);
}
int setgroups(size_t count, const gid_t *groups) {
    return pretending ? 0 : syscall(SYS_setgroups, count, groups);
}
/* Supplementary groups give a test nothing: the one group will do. */
int initgroups(const char *name, gid_t wanted) {
    (void)name;
    return pretending ? 0 : setgroups(1, &wanted);
}
int chown(const char *path, uid_t owner, gid_t owning_group) {
    return pretending ? 0 : syscall(SYS_fchownat, AT_FDCWD, path, owner, owning_group, 0);
}
int lchown(const char *path, uid_t owner, gid_t owning_group) {
    return pretending ? 0 : syscall(SYS_fchownat, AT_FDCWD, path, owner, owning_group, AT_SYMLINK_NOFOLLOW);
}
int fchown(int file, uid_t owner, gid_t owning_group) {
    return pretending ? 0 : syscall(SYS_fchown, file, owner, owning_group);
}
