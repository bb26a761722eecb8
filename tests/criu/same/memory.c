/* Memory and the areas that hold it. */
#include "same.h"

const struct property memory[] = {
	{ 0 },
};
