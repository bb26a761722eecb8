/* Counts in a file that it has mapped, and checks that nobody else's numbers are there. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGES = 64, WORDS = 4096 / sizeof(uint64_t) };

int main(void)
{
	int fd = open("/mapped", O_RDWR | O_CREAT | O_TRUNC, 0644);
	if (fd < 0 || ftruncate(fd, PAGES * 4096))
		return 1;
	volatile uint64_t *words = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (words == MAP_FAILED)
		return 1;
	for (uint64_t n = 0;; n++) {
		for (int page = 0; page < PAGES; page++) {
			if (words[page * WORDS] != n) {
				FILE *fail = fopen("/fail", "w");
				fprintf(fail, "page %d has %lu instead of %lu\n", page, words[page * WORDS], n);
				return 1;
			}
			words[page * WORDS] = n + 1;
		}
		if (n % 100 == 0) {
			FILE *shown = fopen("/dev/shm/.count", "w");
			fprintf(shown, "%lu\n", n / 100);
			fclose(shown);
			rename("/dev/shm/.count", "/dev/shm/count");
		}
		usleep(100);
	}
}
