# SPDX-License-Identifier: Apache-2.0
"""A program on a terminal, and what is on its screen: as much of one as `penstock` speaks to.

    with Terminal([program, "top"], columns=100, lines=30) as terminal:
        terminal.until(lambda: "ready" in terminal.text())
        terminal.press("q")
        assert terminal.wait() == 0 and not terminal.alternate
"""
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

SEQUENCE = re.compile(r"\033\[(\??)([0-9;]*)([A-Za-z])")


class Terminal:
    def __init__(self, command, columns=100, lines=30, environment=None):
        self.main, side = pty.openpty()
        self.size = (lines, columns)
        self._set_size()
        self.before = termios.tcgetattr(side)
        self.process = subprocess.Popen(
            command, stdin=side, stdout=side, stderr=side, start_new_session=True, env=environment,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.side = side  # kept open: what the program leaves behind is looked at after its end
        self.raw, self.pending = "", ""
        self.alternate, self.cursor_shown, self.style = False, True, ""
        self.screens = {False: {}, True: {}}  # row -> column -> (character, style)
        self.at = [0, 0]
        self.kept = [0, 0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.main)
        os.close(self.side)

    def _set_size(self):
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", *self.size, 0, 0))

    def resize(self, columns, lines):
        """As a window does: the kernel sends SIGWINCH to the foreground."""
        self.size = (lines, columns)
        self._set_size()

    def press(self, keys):
        os.write(self.main, keys.encode())

    def settings(self):
        return termios.tcgetattr(self.side)

    # ---- what the program writes ----

    def take(self, seconds=0.05):
        """Reads what comes within that time; False when nothing did."""
        if not select.select([self.main], [], [], seconds)[0]:
            return False
        text = os.read(self.main, 65536).decode(errors="replace")
        self.raw += text
        self._feed(text)
        return True

    def until(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"it never came; on the screen:\n{self.text()}"
            self.take()

    def wait(self, seconds=20):
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it goes on; on the screen:\n{self.text()}"
            self.take()
        while self.take(0):
            pass
        return self.process.returncode

    def _feed(self, text):
        text, self.pending = self.pending + text, ""
        position = 0
        while position < len(text):
            if text[position] == "\033":
                found = SEQUENCE.match(text, position)
                if not found:
                    self.pending = text[position:]
                    return
                self._sequence(*found.groups())
                position = found.end()
            else:
                self._character(text[position])
                position += 1

    def _sequence(self, private, numbers, letter):
        screen = self.screens[self.alternate]
        if private and letter in "hl" and numbers == "1049":
            if letter == "h":
                self.kept, self.screens[True] = self.at[:], {}
            else:
                self.at = self.kept
            self.alternate = letter == "h"
        elif private and letter in "hl" and numbers == "25":
            self.cursor_shown = letter == "h"
        elif letter == "H":
            row, column = (numbers.split(";") + ["1", "1"])[:2] if numbers else ("1", "1")
            self.at = [int(row) - 1, int(column) - 1]
        elif letter == "K":
            row = screen.setdefault(self.at[0], {})
            for column in [c for c in row if c >= self.at[1]]:
                del row[column]
        elif letter == "J":
            if numbers == "2":
                screen.clear()
            else:
                for row in [r for r in screen if r > self.at[0]]:
                    del screen[row]
        elif letter == "m":
            self.style = "" if numbers in ("", "0") else numbers
        else:
            raise AssertionError(f"a terminal may not know \\033[{private}{numbers}{letter}")

    def _character(self, character):
        if character == "\r":
            self.at[1] = 0
        elif character == "\n":
            self.at[0] += 1
        else:
            assert character >= " ", f"{character!r} reached the terminal"
            if self.at[1] >= self.size[1]:
                self.at = [self.at[0] + 1, 0]
            self.screens[self.alternate].setdefault(self.at[0], {})[self.at[1]] = (character, self.style)
            self.at[1] += 1

    # ---- what is seen ----

    def rows(self):
        screen = self.screens[self.alternate]
        last = max(screen, default=-1)
        return ["".join(screen.get(row, {}).get(column, " ")[0] for column in
                        range(max(screen.get(row, {}), default=-1) + 1)) for row in range(last + 1)]

    def text(self):
        return "\n".join(self.rows())

    def style_of(self, word):
        """The style of the first place where it stands; None: it does not."""
        for row, line in enumerate(self.rows()):
            if word in line:
                return self.screens[self.alternate][row][line.index(word)][1]
        return None

    def job(self):
        """The process id of its child."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as file:
            return int(file.read())

    def signal(self, number):
        os.kill(self.process.pid, number)


def stopped(pid):
    """Whether it was stopped (SIGTSTP) by now."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"
