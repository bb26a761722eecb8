/* Namespaces and what they say. */
#include "same.h"

const struct property namespaces[] = {
	{ 0 },
};
