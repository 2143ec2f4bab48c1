/* All functions for elements of type REAL, whose names end in what NAME puts there. */

#include "rows.h"

#include "flips.h"

#include "pooled.h"

#include "adjoint.h"
#include "ascent.h"
#include "columns.h"
#include "curves.h"
#include "fold.h"
#include "forward.h"
#include "halves.h"
#include "intervals.h"
#include "layers.h"
#include "lines.h"
#include "meet.h"
#include "narrow.h"
#include "pooling.h"
#include "tangents.h"
#include "units.h"
