/* Shows, in /dev/shm/unique, what a clone is to find: bytes of memory of three kinds (ordinary, wiped on fork, droppable), and how
 * many SIGUSR1 came. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile sig_atomic_t signals;

static void count(int number)
{
	(void)number;
	signals++;
}

static unsigned char *area(int kind)
{
	unsigned char *at = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return NULL;
	memset(at, 0x41, 1 << 20);
	return at;
}

int main(void)
{
	unsigned char *plain = area(MAP_PRIVATE), *wiped = area(MAP_PRIVATE), *droppable = area(0x08 /* MAP_DROPPABLE */);

	signal(SIGUSR1, count);
	if (!plain || !wiped || madvise(wiped, 1 << 20, MADV_WIPEONFORK))
		return 1;
	for (;;) {
		char text[256];
		int file = open("/dev/shm/.unique", O_CREAT | O_TRUNC | O_WRONLY, 0644), length;

		length = snprintf(text, sizeof(text), "plain=%d,%d wiped=%d,%d droppable=%d signals=%d\n", plain[0], plain[0xfffff],
				  wiped[0], wiped[0xfffff], droppable ? droppable[0] : -1, (int)signals);
		if (file < 0 || write(file, text, length) != length)
			return 1;
		close(file);
		rename("/dev/shm/.unique", "/dev/shm/unique");
		usleep(20000);
	}
}
