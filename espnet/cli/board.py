"""The words after `espcli board`: what is done to the board on the USB cable."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet.cli import parse
from espnet.cli.act import Words, verb
from espnet.cli.render import Exit, Lines, Records, Shown, Told
from espnet.cli.session import Session
from espnet.errors import CableError

if TYPE_CHECKING:
    from espnet.cable.putting import Done


class BoardWords(Words):
    """Does something with the board on the USB cable.

    From the box to the network: firmware, flash, put, provision. What the board was doing ends while
    something is done over the cable; afterwards it starts anew.

    --port   needed when several boards are plugged in
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @verb
    def firmware(self, *, port: str = "", into: str = "") -> Shown:
        """Fetches MicroPython's stable image for the chip, from the internet.

        --into   the folder for it; by default one in EspNet's own, where `board flash` finds it

        Example: espcli board firmware
        """
        from espnet.cli import cabled

        found = cabled.fetch(self._port(port), Path(into) if into else self._images)
        return Shown(
            found, f"{found['image']} is for {found['chip']}; `espcli board flash` writes it."
        )

    @verb
    def flash(
        self, *, port: str = "", firmware: str = "", no_stub: bool = False, baud: str = "460800"
    ) -> Shown:
        """Erases the board, all of it, and writes a MicroPython image.

        The image is compared with the chip first: one that is for another chip, damaged, or no
        MicroPython is refused before anything is erased. What was written is read back.

        --firmware FILE   the image; by default the newest one for this chip that `board firmware` fetched
        --no_stub         without the helper that is loaded into the chip first: slower, and sometimes surer
        --baud N          bits a second on the line, 9600 to 2000000 (460800)

        Example: espcli board flash --firmware ESP32_GENERIC.bin
        """
        from espnet.cable import flashing, image
        from espnet.cli import cabled

        speed = parse.count(baud, "--baud", 9600, 2_000_000)
        place = self._port(port)
        named = image.read(Path(firmware)) if firmware else None
        with cabled.progress() as told:
            chip, chosen = flashing.flash(
                place,
                named or (lambda chip: cabled.newest(self._images, chip)),
                told,
                baud=speed,
                no_stub=bool(no_stub),
            )
        data = {
            "port": place,
            "id": chip.mac,
            "chip": chip.description,
            "flash_bytes": chip.flash,
            "firmware": str(chosen.path),
            "bytes": len(chosen.data),
        }
        text = f"Wrote and verified {chosen.path} on the {chip.description} at {place} (board {chip.mac})."
        return Shown(data, f"{text} Next: `espcli board put`.")

    @verb
    def put(self, *, port: str = "") -> Shown:
        """Puts EspNet's program onto the board: what differs, checked.

        Until the last byte is there the board boots what it had. Its settings and your own files stay.

        Example: espcli board put
        """
        return self._put(port, app=True, switch=True)

    @verb
    def put_app(self, *, port: str = "") -> Shown:
        """Puts the program without the switch, which starts it.

        Example: espcli board put_app
        """
        return self._put(port, app=True, switch=False)

    @verb
    def put_boot(self, *, port: str = "") -> Shown:
        """Puts the switch only: boot.py, main.py and what they need.

        It chooses which release starts, and never comes over the air.

        Example: espcli board put_boot
        """
        return self._put(port, app=False, switch=True)

    @verb
    def provision(
        self,
        *,
        port: str = "",
        name: str = "",
        settings: str = "",
        country: str = "",
        zone: str = "",
    ) -> Shown:
        """Gives the board its settings, and says which address it got.

        Asks for the Wi-Fi's name and password, and for the password of the network that the board opens by
        itself when it finds none; without a terminal they are the first three lines of standard input.
        No password is shown.

        --name           the board's name on the network
        --settings FILE  settings.json with whatever else there is; passwords that it leaves out are asked
                         for, and one of `true` stays as the board has it
        --country        two letters, such as AT: which radio channels are allowed
        --zone           time zone, such as Europe/Vienna (this computer's)

        Example: espcli board provision --name porch
        """
        from espnet.cable import prompt, setup
        from espnet.cli import cabled
        from espnet.settings import shown

        place = self._port(port)
        with cabled.checked_port(place):
            wanted = cabled.wanted(name, settings, country, zone, lambda: self._session.zone)
        with cabled.progress() as told, prompt.opened(place) as board:
            setup.write(board, wanted)
            joined = setup.join(board, wanted, told)
            board_id = cabled.board_id(board)
        if joined.problem:
            raise CableError(
                "network",
                f"The settings are on board {board_id}, but {joined.problem}: it goes on trying; to change "
                "them, repeat the command.",
            )
        data = {
            "port": place,
            "id": board_id,
            "address": joined.address,
            "ssid": joined.ssid,
            "settings": shown(wanted),
        }
        text = f"Board {board_id} is in {joined.ssid} at {joined.address}, and restarts."
        called = wanted.hostname or "NAME"
        register = f"`espcli register {joined.address} {called}`"
        return Shown(data, f"{text} Next: `espcli discover --register`, or at once {register}.")

    @verb
    def repl(self, *, port: str = "") -> Exit:
        """Opens MicroPython's prompt on the board; Ctrl-] leaves it.

        Ctrl-C stops the board's program, Ctrl-D starts it again.

        Example: espcli board repl
        """
        from espnet.cable import ports
        from espnet.cli import cabled

        place = self._port(port)
        ports.require(place)
        return Exit(cabled.run("mpremote", "connect", place, "repl"))

    @verb
    def ls(self, *, port: str = "") -> Records:
        """Lists the files on the board, with sizes and hashes.

        Example: espcli board ls --json
        """
        from espnet.cable import prompt

        with prompt.opened(self._port(port)) as board:
            files, _ = board.files()
        rows = [
            {"file": path, "bytes": file.size, "sha256": file.sha256}
            for path, file in sorted(files.items())
        ]
        hint = (
            ""
            if rows
            else "There is nothing on it yet; `espcli board put` puts EspNet's program there."
        )
        return Records(rows, ("file", "bytes", "sha256"), hint, spare=("sha256",))

    @verb
    def info(self, *, port: str = "") -> Lines:
        """Tells what the board is and what is on it; then restarts it.

        Example: espcli board info
        """
        from espnet.cable import prompt
        from espnet.cli import cabled

        place = self._port(port)
        with prompt.opened(place) as board:
            return Lines({"port": place, **cabled.about(board)})

    @verb
    def reset(self, *, port: str = "") -> Shown:
        """Restarts the board.

        Example: espcli board reset
        """
        import time

        from espnet.cable import console

        place = self._port(port)
        console.reset(place, time.sleep)
        return Shown({"port": place}, f"The board at {place} restarts.")

    @verb
    def logs(self, *, port: str = "", seconds: str = "") -> Told:
        """Shows what the board prints, as it does; Ctrl-C ends it.

        --seconds   ends by itself after 1 to 86400 seconds

        Example: espcli board logs
        """
        from espnet.cable import console

        place = self._port(port)
        for_s = parse.seconds(seconds, "--seconds", 1, 86_400) if seconds else None

        def run(emit: Any) -> None:
            console.follow(place, lambda line: emit({"line": line}), self._session.clock, for_s)

        return Told(run, "line")

    def _port(self, given: str) -> str:
        from espnet.cable import ports

        return ports.find(given)

    @property
    def _images(self) -> Path:
        return self._session.config.data_dir / "firmware"

    def _put(self, port: str, *, app: bool, switch: bool) -> Shown:
        from espnet import firmware
        from espnet.cable import prompt, putting
        from espnet.cli import cabled

        release = firmware.build(firmware.find())
        place = self._port(port)
        with cabled.progress() as told, prompt.opened(place) as board:
            done = putting.put(board, release, told, app=app, switch=switch)
            is_new = "settings.json" not in board.ask("os.listdir('/')")
        data = {"port": place, "version": release.version, "build": release.build, **done._asdict()}
        text = _said(done, place, f"{release.version} (build {release.build})")
        return Shown(data, text + " Next: `espcli board provision --name NAME`." * is_new)


def _said(done: "Done", port: str, what: str) -> str:
    if not done.sent and not done.removed:
        return f"The board at {port} has {what} already; nothing was sent. It restarts."
    files = f"{len(done.sent)} file{'' if len(done.sent) == 1 else 's'}"
    gone = f", removed {len(done.removed)} old ones" if done.removed else ""
    sent = f"Sent {files} ({done.sent_bytes:,} bytes) to the board at {port}{gone}"
    return f"{sent}: it has {what}, and restarts."
