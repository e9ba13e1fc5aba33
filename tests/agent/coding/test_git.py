"""How git is run: what is kept of what it says, and what it is told."""

from cmdop_appliance.agent.coding.git import Git

PIPE = 64 * 1024


async def test_of_a_flood_only_the_end_is_kept(ground):
    program = ground.program(
        "git",
        "#!/bin/sh\nyes | head -c 3000000; echo last\nyes | head -c 3000000 >&2; echo e >&2\n",
    )
    answer = await Git(str(program), ground.environment).ask("/")
    assert answer.code == 0
    assert answer.output.endswith(b"y\nlast\n")
    assert answer.errors.endswith(b"y\ne\n")
    assert len(answer.output) <= 2 * PIPE
    assert len(answer.errors) <= 2 * PIPE


async def test_git_is_run_without_a_prompt_and_in_words_that_we_know(ground):
    program = ground.program(
        "git", '#!/bin/sh\necho "$@|$LC_ALL|$GIT_TERMINAL_PROMPT|$HOME|$GIT_DIR$SUDO_UID|$(cat)"\n'
    )
    environment = ground.environment | {
        "LC_ALL": "de_DE.UTF-8",
        "GIT_DIR": "/else",
        "SUDO_UID": "1",
    }
    answer = await Git(str(program), environment).ask("/a b", "-x", "--", "*")
    assert answer.output.decode() == f"-C /a b -x -- *|C|0|{ground.home}||\n"


async def test_what_git_says_is_shown_in_one_line_that_does_nothing_to_a_terminal(ground):
    program = ground.program(
        "git", "#!/bin/sh\nprintf 'Preparing worktree\\nfatal: \\033[2J\\nhint\\n' >&2; exit 9\n"
    )
    answer = await Git(str(program), ground.environment).ask("/")
    assert answer.code == 9
    assert answer.words == "fatal: \N{REPLACEMENT CHARACTER}[2J hint"
    program.write_text("#!/bin/sh\nexit 9\n")
    assert (await Git(str(program), ground.environment).ask("/")).words == "it ended with 9"
