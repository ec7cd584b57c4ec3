// SPDX-License-Identifier: GPL-2.0-or-later
/* connect.bpf.c with the socket's creator: reported too, and an attempt is refused when either of them is denied. */
#define WITH_CREATOR
#include "connect.bpf.c"
