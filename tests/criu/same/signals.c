/* Signals: masks, handlers, what is queued. */
#include "same.h"

const struct property signals[] = {
	{ 0 },
};
