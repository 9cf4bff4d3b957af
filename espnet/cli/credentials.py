"""The words after `espcli device NAME credentials`, and the one that seals passwords."""

from typing import TYPE_CHECKING, Any, cast

from espnet.cli import parse
from espnet.cli.act import Act, Words, verb
from espnet.cli.amounts import amount, some
from espnet.cli.describe import access
from espnet.cli.render import Lines, Secret, Shown
from espnet.cli.session import Session
from espnet.credential import USER
from espnet.errors import CredentialClosed, EspNetError

if TYPE_CHECKING:
    from espnet.store import Store


def refuse_closed(store: "Store") -> None:
    """A collector that cannot open boards' passwords cannot hold their pins: raises `EspNetError`."""
    kept = store.all_credentials()
    closed = [device for device in store.devices() if device.id in kept and kept[device.id].problem]
    if closed:
        names = ", ".join(device.name for device in closed[:5])
        more = f" and {len(closed) - 5} more" if len(closed) > 5 else ""
        raise EspNetError(
            f"EspNet's password for {names}{more} {kept[closed[0].id].problem}; set the ESPNET_SECRET_KEY "
            "that the other commands have, or leave these boards to others: `espcli run --anyway`."
        )


class CredentialWords(Words):
    """Shows who may control the board, or does with its password what COMMAND says."""

    def __init__(self, session: Session, name: str) -> None:
        self._session, self._name = session, name

    def _bare(self) -> Act:
        return cast(Act, self._overview())

    @verb
    def _overview(self) -> Lines:
        view = self._session.store.view(self._name)
        credential = self._session.store.credential(view.device.id)
        kept = credential.problem or ("yes" if credential.passwords else "no")
        return Lines(
            {
                "access": access(view),
                "password_kept": kept,
                "sealed": bool(credential.passwords)
                and credential.is_current
                and bool(self._session.config.secret_keys),
            },
            f"`espcli device {self._name} credentials show` shows the password."
            if credential.passwords
            else "",
        )

    @verb
    def show(self) -> Secret:
        """Shows the board's user and password.

        Its page asks for them, and so do other programs. With --json nothing is shown: programs keep what
        they read.

        Example: espcli device porch credentials show
        """
        store = self._session.store
        device = store.device(self._name)
        credential = store.credential(device.id)
        if credential.problem:
            raise CredentialClosed(device.id, credential.problem)
        if not credential.passwords:
            raise EspNetError(
                f"EspNet has no password for {device.name}; `espcli device {device.name} credentials claim` "
                "gives the board one, or takes the one that it has (--ask)."
            )
        return Secret(
            {
                "user": USER,
                "password": credential.passwords[0].reveal(),
                "page": f"http://{device.address}/ui",
            },
            f"If the board does not take it: it had others before, and `espcli device {device.name} "
            "credentials claim` finds out which one it takes."
            if len(credential.passwords) > 1
            else "",
        )

    @verb
    def claim(self, *, ask: bool = False, private: bool = False, again: bool = False) -> Shown:
        """Gives an open board a password: control takes it from then on.

        Of a board that has one already, EspNet takes it from you with --ask.

        --ask       asks for the password; without a terminal, the first line of standard input is it
        --private   reading takes the password, too
        --again     the board had a password, and you made it open over USB: it is given a new one

        Example: espcli device porch credentials claim
        """
        from espnet.cli import claiming

        how = claiming.How(
            private=bool(private),
            again=bool(again),
            typed=claiming.typed_password() if ask else None,
        )
        device = self._session.store.device(self._name)
        status = claiming.claim(self._session, device, how).status
        return Shown(
            {"name": device.name, "access": "private" if status.private else "claimed"},
            f"{device.name} is claimed: control takes its password now, from other programs and from its "
            f"page, too (`espcli device {device.name} credentials show`).",
        )

    @verb
    def rotate(self, *, private: str = "") -> Shown:
        """Gives the board another random password.

        Collectors at work lose no poll. The new password is sealed on its way; but whoever overheard how
        the board was claimed, and all that came after, can open it. Then make the board open over USB, and
        claim it anew.

        --private   yes or no: whether reading takes the password, too (as it is)

        Example: espcli device porch credentials rotate
        """
        from espnet.cli import claiming

        wish = parse.one_of(private, "--private", ("yes", "no")) == "yes" if private else None
        device = claiming.rotate(self._session, self._name, private=wish)
        return Shown(
            {"name": device.name},
            f"{device.name} has another password; `espcli device {device.name} credentials show` shows it.",
        )


class SealWords(Words):
    """What is done with all passwords at once."""

    _session: Session

    @verb
    def seal(self) -> Shown:
        """Seals all boards' passwords in Redis under ESPNET_SECRET_KEY.

        New passwords are sealed by themselves; this is for those that were kept before there was a key, or
        under an older one: ESPNET_SECRET_KEY=NEW,OLD opens with both and seals with NEW.

        Example: espcli seal
        """
        session = self._session
        if not session.config.secret_keys:
            raise EspNetError(
                "There is nothing to seal with: set ESPNET_SECRET_KEY, to what `openssl rand -base64 32` "
                "makes, here and where `espcli run` runs."
            )
        every = session.store.all_credentials()
        closed = [board_id for board_id, found in every.items() if found.problem]
        done = [
            board_id
            for board_id, found in every.items()
            if not found.problem and not found.is_current and session.store.reseal(board_id)
        ]
        right = len(every) - len(closed) - len(done)
        said = f"Sealed {amount(len(done), 'password')}; sealed already: {right:,}"
        data: dict[str, Any] = {"sealed": len(done), "already": right, "closed": closed}
        if closed:
            raise EspNetError(
                f"{said}; {amount(len(closed), 'password')} cannot be opened with this ESPNET_SECRET_KEY "
                f"and stay as they are: of {some([f'board {one}' for one in closed])}. Add the key that "
                "they were sealed under: ESPNET_SECRET_KEY=NEW,OLD."
            )
        return Shown(data, f"{said}.")
