/* The start of the one file: unpacks the program that is in it, once, and becomes it.

   It needs neither a C library nor /proc nor /tmp. The program is a folder (cmdop.spec), and stays
   where it was unpacked: the next start finds it there, and looks only whether it is whole.

   CMDOP_UNPACK_DIR  where to unpack, and nowhere else
   CMDOP_UNPACK_TO   unpack into this new or empty folder, for everybody to read, and do no more

   The program gets CMDOP_ONEFILE, the path of this file, and keeps a lock on its folder (flock): one
   that is locked is cleaned away neither by another version nor by systemd-tmpfiles. */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#define CANNOT_RUN 126  /* as a shell says it */
#define UNUSED_S 604800 /* another version that nobody has started for so long is removed */
#define TRAILER 64      /* bytes at the end of this file, see payload.py */

static char build[17]; /* the id of what is in this file */
static unsigned char *archive;
static size_t archive_size;
static const char *listing; /* of the archive's files: a line of "SIZE PATH" for each */
static char reasons[16384]; /* why there was no place to unpack, a line for each */
static mode_t given_umask;

static void refuse(const char *place, const char *why) {
    size_t used = strlen(reasons);
    snprintf(reasons + used, sizeof reasons - used, "  %s: %s\n", place, why);
}

static void refuse_errno(const char *place, const char *what) {
    char why[200];
    snprintf(why, sizeof why, "%s: %s", what, strerror(errno));
    refuse(place, why);
}

static void damaged(void) {
    fputs("error: this file is not whole\nhint: fetch it again\n", stderr);
    exit(CANNOT_RUN);
}

static int join(char *path, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(path, PATH_MAX, format, arguments);
    va_end(arguments);
    if (length < PATH_MAX)
        return 0;
    errno = ENAMETOOLONG;
    return -1;
}

/* ---- unpacking ---- */

/* The next bytes of the archive; fewer, where it ends. It is ours: what it cannot be is damage. */
static size_t take(z_stream *from, void *to, size_t size) {
    from->next_out = to;
    from->avail_out = size;
    while (from->avail_out) {
        int result = inflate(from, Z_NO_FLUSH);
        if (result == Z_STREAM_END) /* and its checksum is right */
            break;
        if (result != Z_OK)
            damaged();
    }
    return size - from->avail_out;
}

static int write_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t done = write(fd, data, size);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return -1;
        data += done;
        size -= done;
    }
    return 0;
}

static int unpack_file(z_stream *from, int root, const char *name, size_t size, mode_t mode) {
    static char piece[65536]; /* whole blocks: an archive consists of these */
    int fd = openat(root, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return -1;
    for (size_t left = (size + 511) / 512 * 512; left;) {
        size_t some = left < sizeof piece ? left : sizeof piece;
        if (take(from, piece, some) != some)
            damaged();
        if (write_all(fd, piece, some < size ? some : size) < 0) {
            int error = errno;
            close(fd);
            errno = error;
            return -1;
        }
        left -= some;
        size -= some < size ? some : size;
    }
    return close(fd);
}

/* Everything, into the open folder; it is on the disk when this returns 0. */
static int unpack(int root) {
    char head[512], name[257];
    z_stream from = {.next_in = archive, .avail_in = archive_size};
    if (inflateInit2(&from, 15 + 16) != Z_OK) {
        errno = ENOMEM;
        return -1;
    }
    for (;;) { /* ustar: name, mode, size and kind of the next one, then its content */
        if (take(&from, head, sizeof head) != sizeof head)
            break;
        if (!head[0]) /* the end, filled up */
            continue;
        snprintf(name, sizeof name, "%.155s%s%.100s", head + 345, head[345] ? "/" : "", head);
        mode_t mode = strtoul(head + 100, NULL, 8);
        int result = head[156] == '5'   ? mkdirat(root, name, mode)
                     : head[156] == '2' ? symlinkat(head + 157, root, name)
                                        : unpack_file(&from, root, name,
                                                      strtoull(head + 124, NULL, 8), mode);
        if (result < 0) {
            int error = errno;
            inflateEnd(&from);
            errno = error;
            return -1;
        }
    }
    inflateEnd(&from);
    return syncfs(root);
}

static void remove_tree(int parent, const char *name) {
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (folder) {
        for (struct dirent *entry; (entry = readdir(folder));)
            if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
                if (unlinkat(fd, entry->d_name, 0) < 0)
                    remove_tree(fd, entry->d_name);
        closedir(folder);
    } else if (fd >= 0)
        close(fd);
    unlinkat(parent, name, AT_REMOVEDIR);
}

/* ---- the places ---- */

/* Can nobody but us and root put something else there? All that leads to it is looked at, too. */
static int is_ours_alone(const char *resolved) {
    struct stat at, root;
    char path[PATH_MAX];
    if (stat("/", &root) < 0 || join(path, "%s", resolved) < 0)
        return 0;
    for (;;) {
        if (lstat(path, &at) < 0)
            return 0;
        if (at.st_uid && at.st_uid != geteuid() && at.st_uid != root.st_uid)
            return 0;
        if (at.st_mode & 022 && !(at.st_mode & S_ISVTX))
            return 0;
        char *slash = strrchr(path, '/');
        if (!slash || !path[1])
            return 1;
        slash[slash == path] = 0;
    }
}

static int is_whole(int root) {
    const char *line = listing;
    while (*line != '\n') { /* the trailer begins so */
        char *name, path[PATH_MAX];
        struct stat at;
        long long size = strtoll(line, &name, 10);
        const char *end = strchr(line, '\n');
        if (join(path, "%.*s", (int)(end - name - 1), name + 1) < 0)
            return 0;
        if (fstatat(root, path, &at, AT_SYMLINK_NOFOLLOW) < 0 || at.st_size != size)
            return 0;
        line = end + 1;
    }
    return 1;
}

static int may_execute(int root) { /* what security modules say shows only when it is tried */
    int fd = openat(root, "cmdop", O_RDONLY | O_CLOEXEC);
    void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, 1, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    if (fd >= 0)
        close(fd);
    if (mapped == MAP_FAILED)
        return 0;
    munmap(mapped, 1);
    return 1;
}

/* Our version is there, and stays there: nobody removes what has just been used. */
static int is_there(int place) {
    int fd = openat(place, build, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return 0;
    flock(fd, LOCK_SH); /* while somebody cleans up it is not asked */
    futimens(fd, NULL);
    int result = is_whole(fd);
    close(fd);
    return result;
}

static int is_build(const char *name) {
    return strlen(name) == 16 && strspn(name, "0123456789abcdef") == strlen(name);
}

/* Other versions that nobody runs nor has started lately, and what was left by who was killed. */
static void tidy(int place) {
    DIR *folder = fdopendir(dup(place));
    if (!folder)
        return;
    rewinddir(folder);
    for (struct dirent *entry; (entry = readdir(folder));) {
        const char *name = entry->d_name;
        struct stat at;
        int is_rest = name[0] == '.' && is_build(name + 1);
        if (!is_rest && (!is_build(name) || !strcmp(name, build)))
            continue;
        int fd = openat(place, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (is_rest || (!fstat(fd, &at) && at.st_mtime < time(NULL) - UNUSED_S))
            if (!flock(fd, LOCK_EX | LOCK_NB))
                remove_tree(place, name);
        close(fd);
    }
    closedir(folder);
}

static int make(int place) {
    unsigned long long random[2];
    char fresh[18], broken[18];
    if (getrandom(random, sizeof random, 0) < 0)
        return -1;
    snprintf(fresh, sizeof fresh, ".%016llx", random[0]);
    snprintf(broken, sizeof broken, ".%016llx", random[1]);
    if (mkdirat(place, fresh, 0700) < 0)
        return -1;
    int fd = openat(place, fresh, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int error = fd < 0 || unpack(fd) < 0 ? errno : may_execute(fd) ? 0 : EACCES;
    close(fd);
    if (!error && renameat(place, fresh, place, build) < 0) { /* one that is not whole is there */
        renameat(place, build, place, broken);
        if (renameat(place, fresh, place, build) < 0)
            error = errno;
        remove_tree(place, broken);
    }
    if (error)
        remove_tree(place, fresh);
    fsync(place);
    errno = error;
    return error ? -1 : 0;
}

static int prepare(int place) {
    if (is_there(place))
        return 0;
    int lock = openat(place, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    int is_locked = lock >= 0 && !flock(lock, LOCK_EX), result = 0;
    if (!is_there(place)) { /* another may have been quicker */
        if (is_locked)
            tidy(place);
        result = make(place);
    }
    int error = errno;
    close(lock);
    errno = error;
    return result;
}

/* Become the program, unpacked in this place; it returns only if that cannot be. */
static void start_from(const char *base, const char *name, char **argv) {
    char resolved[PATH_MAX], path[PATH_MAX], program[PATH_MAX];
    struct stat at;
    struct statvfs on;

    if (!realpath(base, resolved))
        return refuse_errno(base, "not to be used");
    if (join(path, *name ? "%s/%s" : "%s", resolved, name) < 0 ||
        join(program, "%s/%s/cmdop", path, build) < 0)
        return refuse_errno(base, "not to be used");
    if (!is_ours_alone(resolved)) /* nor may its owner have us make something elsewhere */
        return refuse(path, "others can change what is there");
    if (*name)
        mkdir(path, 0700);
    int place = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (place < 0 || fstat(place, &at) < 0 || fstatvfs(place, &on) < 0)
        refuse_errno(path, "not to be used");
    else if (at.st_uid != geteuid() || at.st_mode & 022)
        refuse(path, "others can change what is there");
    else if (on.f_flag & ST_NOEXEC)
        refuse(path, "no program may run there (noexec)");
    else if (prepare(place) < 0)
        refuse_errno(path, "cannot unpack there");
    else {
        umask(given_umask);
        execv(program, argv);
        refuse_errno(program, "does not run");
        umask(077);
    }
    if (place >= 0)
        close(place);
}

/* As above, in a folder of caches, which is made if need be. */
static void start_from_cache(const char *base, const char *name, char **argv) {
    char above[PATH_MAX], resolved[PATH_MAX];
    if (!join(above, "%s", base) && realpath(dirname(above), resolved) && is_ours_alone(resolved))
        mkdir(base, 0700);
    start_from(base, name, argv);
}

static int unpack_to(const char *path) {
    umask(022);
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return -1;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -1 : unpack(fd);
}

/* Look at ourselves: the path of this file, and what is in it. */
static void read_own(char *path) {
    char trailer[TRAILER + 1] = "";
    struct stat at;
    long long size, listing_size;
    ssize_t length = readlink("/proc/self/exe", path, PATH_MAX - 1);
    if (length >= 0)
        path[length] = 0;
    else if (!realpath((const char *)getauxval(AT_EXECFN), path))
        path[0] = 0;
    int fd = open(length >= 0 ? "/proc/self/exe" : path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &at) < 0 || at.st_size < TRAILER)
        damaged();
    const char *all = mmap(NULL, at.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (all == MAP_FAILED)
        damaged();
    memcpy(trailer, all + at.st_size - TRAILER, TRAILER);
    long long most = at.st_size - TRAILER;
    if (sscanf(trailer, "\ncmdop %16[0-9a-f] %lld %lld", build, &size, &listing_size) != 3 ||
        listing_size < 0 || listing_size > most || size < 0 || size > most - listing_size)
        damaged();
    listing = all + at.st_size - TRAILER - listing_size;
    archive = (unsigned char *)listing - size;
    archive_size = size;
}

int main(int argc, char **argv) {
    char own[PATH_MAX], path[PATH_MAX], shared[32];
    const char *to = getenv("CMDOP_UNPACK_TO"), *only = getenv("CMDOP_UNPACK_DIR");
    const char *home = getenv("HOME"), *cache = getenv("XDG_CACHE_HOME");
    const char *temporary = getenv("TMPDIR");
    (void)argc;

    read_own(own);
    if (to) {
        if (!unpack_to(to))
            return 0;
        fprintf(stderr, "error: cannot unpack into %s: %s\n", to, strerror(errno));
        return CANNOT_RUN;
    }
    setenv("CMDOP_ONEFILE", own, 1);
    snprintf(shared, sizeof shared, "cmdop-%u", (unsigned)geteuid());
    given_umask = umask(077);
    if (only && *only)
        start_from_cache(only, "", argv);
    else {
        if (cache && *cache == '/')
            start_from_cache(cache, "cmdop", argv);
        if (home && *home == '/' && !join(path, "%s/.cache", home))
            start_from_cache(path, "cmdop", argv);
        if (!geteuid())
            start_from("/var/cache", "cmdop", argv);
        if (*own)
            start_from(dirname(strcpy(path, own)), ".cmdop", argv);
        if (temporary && *temporary == '/')
            start_from(temporary, shared, argv);
        start_from("/var/tmp", shared, argv);
        start_from("/dev/shm", shared, argv);
        start_from("/tmp", shared, argv);
    }
    fprintf(stderr,
            "error: there is no folder to unpack this program into\n%s"
            "hint: CMDOP_UNPACK_DIR=FOLDER, one that is yours alone and not mounted noexec\n",
            reasons);
    return CANNOT_RUN;
}
