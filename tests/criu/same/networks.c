/* What a network namespace holds. */
#include "same.h"

const struct property networks[] = {
	{ 0 },
};
