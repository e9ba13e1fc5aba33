"""`cmdop selftest`: the promises about disks, kept on the user's own disk by this very program."""
