/* The container's cgroup, and those below. */
#include "same.h"

const struct property cgroups[] = {
	{ 0 },
};
