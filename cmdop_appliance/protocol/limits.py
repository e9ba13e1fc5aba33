"""Sizes and times of the agent link, each with its unit and its source."""

VERSION = 1  # raised when an older peer could misunderstand us; both ends name theirs in `hello`

# One websocket message; both ends raise the library's limit together (stack.md, decision 3).
MESSAGE_BYTES = 1024 * 1024
# Output under one checksum (semantics.md, Commands 6).
CHUNK_BYTES = 32 * 1024
# Payload of one output frame: half the window, so that one is stored while the next is sent; some
# 0.3 ms of work at either end.
OUTPUT_BYTES = 4 * CHUNK_BYTES
# Output sent but not yet stored by the hub, per command (semantics.md, Commands 6).
WINDOW_BYTES = 256 * 1024
# Linux refuses one argv string above 128 KiB with its NUL (MAX_ARG_STRLEN, linux/binfmts.h).
ARGUMENT_BYTES = 128 * 1024 - 1
# A whole spec as JSON; leaves room in one message, also for text that JSON escapes.
SPEC_BYTES = 512 * 1024
# Standard input that travels inside a spec, before base64.
STDIN_BYTES = 256 * 1024
# Names of messages in one `welcome`: far more than there will be.
FEATURES_ITEMS = 100
# The manifest of a release, before base64.
MANIFEST_BYTES = 64 * 1024
# Commands named in one inventory message: about 100 bytes each, far below MESSAGE_BYTES.
INVENTORY_ITEMS = 1000
# Samples in one message: some 400 bytes each, so that what comes behind waits for 40 kB at most.
SAMPLES_ITEMS = 100
# Samples that one may stand for: those of a minute, at any pace.
SAMPLES_IN_ONE = 10_000
# How long a machine keeps the samples that its hub does not hold, and how old a hub takes them: as
# long as it has minutes to show (store/metrics.py).
SAMPLES_KEPT_MS = 2 * 86_400_000
# A label sent by an agent (hostname, kernel, home …): Linux ends a path at 4096 (PATH_MAX).
LABEL_CHARS = 4096
# A hostname, which a hub stores with each session: no system has a longer one (NAME_MAX).
HOSTNAME_BYTES = 255
# A name for a machine: what fits a table column and a file name (NAME_MAX, 255 bytes).
NAME_CHARS = 255

# A path: what Linux takes in one call (PATH_MAX), without its NUL.
PATH_BYTES = 4095
# Entries of a directory in one answer: at most 1 KiB each, but for links, so that it fits.
ENTRIES_ITEMS = 100
# Paths in one question whether they exist; the hub asks in parts that fit one message.
PATHS_ITEMS = 1000
# Bytes of a file in one frame, as of output.
DATA_BYTES = OUTPUT_BYTES
# Bytes of one file under way that the receiver has not granted anew: 10 MB/s at 100 ms round trip,
# and what either end may have to hold of it.
TRANSFER_BYTES = 1024 * 1024
# Calls for files that one connection carries at a time; the hub keeps the others waiting.
FILE_CALLS = 16
# Of these those that no transfer takes, however slow it is: whoever lists and deletes meanwhile
# needs each for a moment, and four carry some 40 a second at 100 ms round trip.
QUICK_CALLS = 4
# A side of a screen, in cells: a wall of displays has fewer; the kernel takes 16 bits (ioctl_tty).
SIDE_CELLS = 2000
# Words of the program in a terminal; the whole message is bounded, too.
ARGUMENTS_ITEMS = 1000
# What is typed in one message: a paste comes in parts, between which keys of others find their way.
INPUT_BYTES = 16 * 1024
# Output of a terminal in one frame: what others' keys may stand behind.
SCREEN_BYTES = 32 * 1024
# Output of a terminal that a reader has not granted anew (semantics.md, Commands 6).
WATCH_BYTES = 256 * 1024
# Readers of terminals on one connection; live terminals of one machine.
WATCHES = 256
TERMINALS = 64

# Unsent bytes that a socket may hold before data of files waits: what a command may stand behind.
UNSENT_BYTES = 128 * 1024

# The hub challenges, the machine proves: all of it within this (trust.md 27).
HANDSHAKE_S = 10.0
# The agent speaks with each sample, or after this and up to 10 % more (stack.md, decision 3).
HEARTBEAT_S = 15.0
# A link silent for so long is dead, found within 30 s (contract.md §3); a beat may be 8 s late.
SILENT_S = 25.0
# A frame that a peer does not take within this time means that the peer is gone (stack.md).
SEND_S = 10.0
