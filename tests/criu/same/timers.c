/* Timers and clocks. */
#include "same.h"

const struct property timers[] = {
	{ 0 },
};
