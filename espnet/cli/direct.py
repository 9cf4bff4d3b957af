"""The words after `espcli device NAME requests`."""

from collections.abc import Callable

from espnet.board.calls import (
    GET_BASIC,
    Call,
    parse_any,
    read_adc,
    read_dht22,
    set_gpio,
    set_host,
)
from espnet.cli import parse
from espnet.cli.act import Words, verb
from espnet.cli.render import Lines
from espnet.cli.session import Session


class RequestWords(Words):
    """Calls the board directly, past its lock: whatever a collector is doing is not waited for.

    What the board answers is shown as it is, and not stored.
    """

    def __init__(self, session: Session, name: str, before: tuple[Callable[[], None], ...]) -> None:
        self._session, self._name, self._before = session, name, before

    @verb
    def get_basic(self) -> Lines:
        """Shows the board's whole answer to `GET /`: gpio, f (°F), id …

        Example: espcli device porch requests get_basic
        """
        return self._send(GET_BASIC)

    @verb
    def set_gpio(self, pin: str, value: str) -> Lines:
        """Sets pins to 0 or 1, past the lock: jobs may set them back.

        PIN     one GPIO number, or several with commas between
        VALUE   0 or 1

        Example: espcli device porch requests set_gpio 2,4 1
        """
        return self._send(set_gpio(parse.pins(pin), parse.count(value, "VALUE", 0, 1)))

    @verb
    def flip_gpio(self, pin: str) -> Lines:
        """Toggles pins, past the lock: jobs may set them back.

        PIN   one GPIO number, or several with commas between

        Example: espcli device porch requests flip_gpio 2
        """
        return self._send(set_gpio(parse.pins(pin), 2))

    @verb
    def get_adc(self, read_pin: str, power_pin: str | None = None, samples: str = "1") -> Lines:
        """Samples the ADC at READ_PIN, with POWER_PIN high meanwhile.

        POWER_PIN   the GPIO number that feeds the sensor; it goes low afterwards
        SAMPLES     how many, 1 to 1000 (1); the board has its own bound

        Example: espcli device porch requests get_adc 36 5 10
        """
        power = None if power_pin is None else parse.pin(power_pin)
        return self._send(
            read_adc(parse.pin(read_pin), power, parse.count(samples, "SAMPLES", 1, 1000))
        )

    @verb
    def get_dht22(self, read_pin: str) -> Lines:
        """Reads a DHT22 at READ_PIN: temperature in °C, humidity in %.

        Example: espcli device porch requests get_dht22 4
        """
        return self._send(read_dht22(parse.pin(read_pin)))

    @verb
    def set_host(self, ip: str) -> Lines:
        """Tells the board who manages it: `espnet_host` in its answers.

        Example: espcli device porch requests set_host 192.168.1.2
        """
        return self._send(set_host(ip))

    def _send(self, call: Call) -> Lines:
        from espnet.cli import claiming

        device = self._session.store.device(self._name)
        body = claiming.send(self._session, device, call)
        return Lines(parse_any(device.address, body))
