/*
 * Talks to a daemon through libclsync 0.4: connects, negotiates, and asks for what the library has words for.
 *
 *     libclsync_client SOCKET blocking DIRECTORY      one request after the other; DIRECTORY is dumped to
 *     libclsync_client SOCKET thread                  answers come in the library's own thread
 *     libclsync_client SOCKET connect                 clsync_connect_unix alone
 *     libclsync_client SOCKET die
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#define LIBCLSYNC
#include <clsync/configuration.h>
#include <libclsync.h>

static sem_t answered;

static void fail(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(1);
}

static void receive(clsyncsock_t *sock, sockcmd_t *answer)
{
	memset(answer, 0, sizeof(*answer));
	if (socket_recv(sock, answer))
		fail("no answer");
}

static void tell(const sockcmd_t *answer)
{
	const sockcmd_dat_version_t *version = answer->data;
	const sockcmd_dat_ack_t *rejected = answer->data;
	const sockcmd_dat_info_t *info = answer->data;

	printf("%lu %u", (unsigned long)answer->cmd_num, (unsigned)answer->cmd_id);
	switch (answer->cmd_id) {
	case SOCKCMD_REPLY_VERSION:
		printf(" %d %d %s", version->major, version->minor, version->revision);
		break;
	case SOCKCMD_REPLY_INFO:
		printf(" %s", info->config_block);
		break;
	case SOCKCMD_REPLY_ACK:
	case SOCKCMD_REPLY_UNKNOWNCMD:
		printf(" %u %lu", (unsigned)rejected->cmd_id, (unsigned long)rejected->cmd_num);
		break;
	default:
		break;
	}
	putchar('\n');
	fflush(stdout);
}

static clsyncsock_t *connected(const char *path)
{
	clsyncsock_t *sock = socket_connect_unix(path);
	sockcmd_t offer;

	if (!sock)
		fail("not connected");
	receive(sock, &offer);
	tell(&offer);
	sock->cmd_num = 0;
	socket_send(sock, SOCKCMD_REPLY_NEGOTIATION, 0, 0);
	receive(sock, &offer);
	tell(&offer);
	return sock;
}

static void blocking(const char *path, const char *directory)
{
	clsyncsock_t *sock = connected(path);
	sockcmd_t answer;

	socket_send(sock, SOCKCMD_REQUEST_VERSION);
	receive(sock, &answer);
	tell(&answer);
	socket_send(sock, SOCKCMD_REQUEST_INFO);
	receive(sock, &answer);
	tell(&answer);
	socket_send(sock, SOCKCMD_REQUEST_DUMP, directory);
	receive(sock, &answer);
	tell(&answer);
	socket_send(sock, SOCKCMD_REQUEST_SET, "no-such-option", "x");
	receive(sock, &answer);
	tell(&answer);
	socket_send(sock, SOCKCMD_REPLY_INFO, "a", "b", 1, 2);
	receive(sock, &answer);
	tell(&answer);
	socket_send(sock, SOCKCMD_REQUEST_QUIT);
	receive(sock, &answer);
	tell(&answer);
	if (!socket_recv(sock, &answer))
		fail("not closed");
	socket_close(sock);
}

static int on_line(socket_sockthreaddata_t *thread, sockcmd_t *line)
{
	(void)thread;
	if (line->cmd_id != SOCKCMD_REPLY_NEGOTIATION)
		tell(line);
	sem_post(&answered);
	return 0;
}

static void wait_for_answer(void)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 20;
	if (sem_timedwait(&answered, &until))
		fail("no answer in the thread");
}

static void threaded(const char *path)
{
	static int running = 1;
	clsyncsock_t *sock = socket_connect_unix(path);
	socket_sockthreaddata_t *thread = sock ? socket_thread_attach(sock) : NULL;
	sockcmd_t offer;

	if (!thread)
		fail("not connected");
	/* Before the thread: of two lines that come at once, the library keeps the second until more comes. */
	receive(sock, &offer);
	/* The library does not clear what it has allocated. */
	sock->cmd_num = 1000;
	sock->cbqueue_len = 0;
	memset(sock->cbqueue_cache, 0, sizeof(sock->cbqueue_cache));
	sem_init(&answered, 0, 0);
	thread->procfunct = on_line;
	thread->running = &running;
	thread->authtype = SOCKAUTH_NULL;
	if (socket_thread_start(thread))
		fail("no thread");
	wait_for_answer(); /* the daemon's word on the offer of the thread */
	/* Not socket_send_cb: it registers what is to be called only after it has sent. */
	socket_send(sock, SOCKCMD_REQUEST_VERSION);
	wait_for_answer();
	socket_send(sock, SOCKCMD_REQUEST_QUIT);
	wait_for_answer();
}

static int nothing(socket_sockthreaddata_t *thread, sockcmd_t *line)
{
	(void)thread;
	(void)line;
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		fail("what?");
	if (!strcmp(argv[2], "blocking") && argc == 4)
		blocking(argv[1], argv[3]);
	else if (!strcmp(argv[2], "thread"))
		threaded(argv[1]);
	else if (!strcmp(argv[2], "connect"))
		puts(clsync_connect_unix(argv[1], nothing, SOCKPROCFLAG_NONE) ? "connected" : "not connected");
	else if (!strcmp(argv[2], "die"))
		socket_send(connected(argv[1]), SOCKCMD_REQUEST_DIE);
	else
		fail("what?");
	return 0;
}
