/* Sockets, what is in them, and their options. */
#include "same.h"

const struct property sockets[] = {
	{ 0 },
};
