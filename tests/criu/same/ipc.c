/* System V objects and message queues. */
#include "same.h"

const struct property ipc[] = {
	{ 0 },
};
