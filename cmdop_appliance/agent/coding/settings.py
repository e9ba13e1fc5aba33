"""The part of agent.toml about coding sessions: which AI agents there are, and how they start."""

from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

MODEL: Final = "{model}"  # stands for the model that was asked for

Words = tuple[Annotated[str, Meta(pattern=r"^[^\0]+\Z")], ...]
Program = Annotated[str, Meta(pattern=r"^((/|~/)[^\0]*|[^/\0]+)\Z")]
Folder = Annotated[
    str,
    Meta(
        pattern=r"^(/|~/)[^\0:]*\Z",  # a colon would end it, on a PATH
        description='a list of folders, such as ["/opt/node/bin", "~/tools"]',
    ),
]


class Flavour(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one kind of AI coding agent is started: a program, `args`, then what was asked for."""

    programs: Annotated[tuple[Program, ...], Meta(min_length=1)]  # the first that there is
    args: Words = ()
    model: Words = ("--model", MODEL)  # only with a model; (): it takes none
    yolo: Words = ()  # only when it need not ask; (): it always asks


# contract.md §9
FLAVOURS: Final = {
    "claude": Flavour(programs=("claude",), yolo=("--dangerously-skip-permissions",)),
    "codex": Flavour(programs=("codex",), yolo=("--dangerously-bypass-approvals-and-sandbox",)),
    "cursor": Flavour(programs=("agent", "cursor-agent"), yolo=("--yolo",)),
    "gemini": Flavour(programs=("gemini",), yolo=("--yolo",)),
    "opencode": Flavour(programs=("opencode",)),
}


class CodingPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which coding sessions may be started."""

    # False: none. Else as commands are: `commands.exec`, `commands.users`, `files.roots`.
    enabled: bool = True
    path: tuple[Folder, ...] = ()  # where programs are looked for behind the agent's own PATH
    # Milliseconds without a word from it after which a session waits for somebody.
    waiting_ms: Annotated[int, Meta(ge=500, le=3_600_000)] = 5000
    # Those that the file names come beside the built-in ones, or take their place whole.
    flavours: Annotated[
        dict[Annotated[str, Meta(min_length=1, max_length=64)], Flavour],
        Meta(
            description="tables [coding.flavours.NAME] with programs (one at least), args, model"
            " and yolo, each a list of words"
        ),
    ] = {}

    def __post_init__(self) -> None:
        force_setattr(self, "flavours", FLAVOURS | self.flavours)
