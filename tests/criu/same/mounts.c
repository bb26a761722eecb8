/* Mounts and what is in a tmpfs. */
#include "same.h"

const struct property mounts[] = {
	{ 0 },
};
