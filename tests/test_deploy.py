"""Laws of what services are made of: the unit, the image, the compose file, and docs/deploy.md."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from conftest import RedisProcess
from test_docs import section

from espnet import config, server
from espnet.cli.grammar import read

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "deploy" / "espnet@.service"
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
#: What a program may be given that is no setting of EspNet's.
FOREIGN = {"PYTHONUNBUFFERED", "PATH", "REDIS_PASSWORD"}


def settings() -> set[str]:
    """Every setting of README's table."""
    return set(re.findall(r"`([A-Z_]+)`", section("Settings")))


def require(program: str) -> str:
    """A tool that is not everywhere: without it, this check is left out; what it checks is looked at by
    other tests, too."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed here")
    return found


# --- systemd --------------------------------------------------------------------------------------


def unit() -> dict[str, list[str]]:
    """What the unit says, by key, without its sections; comments are left out."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_runs_a_command_that_exists_with_settings_that_exist() -> None:
    """ExecStart is a command of EspNet; Environment and the example of espnet.env name settings of it."""
    told = unit()
    program, *words = shlex.split(told["ExecStart"][0])
    assert program == "/opt/espnet/espcli"
    read(words)
    names = {word.partition("=")[0] for text in told["Environment"] for word in text.split()}
    example = (ROOT / "deploy" / "espnet.env").read_text(encoding="utf-8")
    lines = re.findall(r"^#?([A-Z_]+)=(.*)$", example, re.MULTILINE)
    assert names | {name for name, _ in lines} <= settings() | FOREIGN
    # Each value that is shown is one that is taken.
    for name, value in lines:
        found = config.from_environment({"ESPNET_DATA": "/x", name: value})
        if name == "REDIS_URL":
            server.check_url(found.redis_url or "")


def test_the_unit_comes_back_by_itself_and_may_do_little() -> None:
    """It is started again for ever, but not with settings that make no sense; it has a watchdog; it has no
    capability, no writable folder but its own, and bounds."""
    told = {key: values[-1] for key, values in unit().items()}
    assert told["Type"] == "notify"
    assert (told["Restart"], told["StartLimitIntervalSec"]) == ("always", "0")
    assert told["RestartPreventExitStatus"] == "2"
    assert 10 <= int(told["WatchdogSec"]) < int(told["TimeoutStartSec"])
    for key in ("DynamicUser", "NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome"):
        assert told[key] == "yes"
    assert (told["ProtectSystem"], told["StateDirectory"]) == ("strict", "espnet")
    assert told["CapabilityBoundingSet"] == told["AmbientCapabilities"] == ""
    assert unit()["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    assert {"MemoryMax", "TasksMax", "LimitNOFILE", "RestrictAddressFamilies"} <= told.keys()
    # Secrets come from a file that only root reads.
    assert told["EnvironmentFile"] == "-/etc/espnet/%i.env"
    assert not re.search("PASSWORD|SECRET|API_KEY", UNIT.read_text(encoding="utf-8"))


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, and `security` says what the page says."""
    program = require("systemd-analyze")
    path = tmp_path / "espnet@1.service"
    # Nothing is installed in /opt here.
    text = UNIT.read_text(encoding="utf-8")
    path.write_text(text.replace("/opt/espnet/espcli", "/bin/true"))
    done = subprocess.run([program, "verify", path], capture_output=True, text=True)
    said = [line for line in (done.stdout + done.stderr).splitlines() if path.name in line]
    assert (done.returncode, said) == (0, [])
    judged = subprocess.run(
        [program, "security", "--offline=yes", path], capture_output=True, text=True
    )
    if "offline" in judged.stderr:
        pytest.skip("this systemd judges only units that are loaded")
    score = re.search(r"exposure level for \S+: ([0-9.]+)", judged.stdout)
    assert score, judged.stdout + judged.stderr
    assert float(score[1]) <= 1.5


# --- the image ------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, in order."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, rest.strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines())
        if word
    ]


def test_the_image_is_small_private_and_runs_as_nobody() -> None:
    """Its base has no registry in its name, the last user is not root, nothing is built where it runs, and
    what is installed is what the lock names."""
    told = instructions()
    bases = [rest.split()[0] for word, rest in told if word == "FROM"]
    assert bases
    assert all(re.fullmatch(r"python:\$\{PYTHON\}-slim", base) for base in bases)
    last = told[max(i for i, (word, _) in enumerate(told) if word == "FROM") :]
    assert [rest for word, rest in last if word == "USER"] == ["espnet"]
    assert "pip" not in " ".join(rest for word, rest in last if word == "RUN")
    # Whoever prepares a folder for it knows both numbers.
    (made,) = (rest for word, rest in last if word == "RUN")
    assert "groupadd --gid 8469 " in made
    assert "useradd --uid 8469 --gid 8469 " in made
    installs = " ".join(rest for word, rest in told if word == "RUN")
    assert "pipenv requirements --hash" in installs
    assert "--require-hashes" in installs
    names = {
        name
        for word, rest in told
        if word in ("ENV", "ARG")
        for name in re.findall(r"([A-Z_]+)=", rest)
    }
    assert not {name for name in names if re.search("PASSWORD|SECRET|KEY", name)}
    assert {name for name in names if name.startswith("ESPNET_")} <= settings()


def test_the_image_runs_commands_that_exist() -> None:
    """Its default, and its health check, which lets Redis' own trouble pass."""
    told = dict(instructions())
    assert told["ENTRYPOINT"] == '["espcli"]'
    assert told["CMD"] == '["run"]'
    check = told["HEALTHCHECK"].partition("CMD ")[2]
    command, _, rest = check.partition(" >/dev/null || ")
    assert rest == "test $? -eq 3"
    assert shlex.split(command) == ["espcli", "doctor", "--here"]
    assert f"`{command} || {rest}`" in PAGE


def test_the_image_gets_what_it_copies_and_nothing_else() -> None:
    """All that is copied exists and gets past .dockerignore, which lets nothing pass that nobody asked for:
    no history, no settings, no secrets."""
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert "esp32/settings.json" in lines


# --- compose --------------------------------------------------------------------------------------


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return found


def test_the_services_run_commands_that_exist_with_settings_that_exist() -> None:
    """Every service of EspNet's; and whoever needs Redis waits until it has its data."""
    services = compose()["services"]
    ours = {name: one for name, one in services.items() if one["image"] == "espnet"}
    assert {"collector", "boards", "boards-collector", "boards-register"} == set(ours)
    for one in ours.values():
        read([re.sub(r"\$\{\w+:-(.*?)\}", r"\1", word) for word in one["command"]])
        assert set(one.get("environment", {})) <= settings()
        if "environment" in one:
            assert one["depends_on"]["redis"] == {"condition": "service_healthy"}
        assert one["read_only"] is True
        assert one["cap_drop"] == ["ALL"]


def test_redis_is_for_the_collectors_only_and_keeps_its_data() -> None:
    """No port is published, its network leads nowhere, its data lie in a volume, no secret is in the file."""
    told = compose()
    services = told["services"]
    assert not [name for name, one in services.items() if "ports" in one]
    assert services["redis"]["networks"] == ["store"]
    assert told["networks"]["store"] == {"internal": True}
    assert services["redis"]["volumes"] == ["redis:/data"]
    mounted = {name: one["volumes"] for name, one in services.items() if "volumes" in one}
    assert mounted == {"redis": ["redis:/data"], "boards": ["boards:/data"]}
    assert set(told["volumes"]) == {"redis", "boards"}
    assert "/" in services["redis"]["image"]
    assert "." not in services["redis"]["image"].split("/")[0]  # a registry's name has a dot
    environments = [one.get("environment", {}) for one in services.values()]
    for environment in environments:
        for name, value in environment.items():
            if re.search("PASSWORD|SECRET|KEY|URL", name):
                assert "${" in value


def test_simulated_boards_are_asked_for_and_apart() -> None:
    """They are in a profile of their own, under keys of their own, in one network with who polls them."""
    services = compose()["services"]
    simulated = {name: one for name, one in services.items() if name.startswith("boards")}
    assert all(one["profiles"] == ["simulated"] for one in simulated.values())
    assert not [n for n, one in services.items() if n not in simulated and "profiles" in one]
    for name in ("boards-register", "boards-collector"):
        assert services[name]["network_mode"] == "service:boards"
        assert services[name]["environment"]["ESPNET_PREFIX"] == "simulated:"


def test_simulated_boards_keep_what_redis_knows_of_them_and_are_followed() -> None:
    """Redis remembers their passwords, so their files lie in a volume, too; their ports change with each
    start, so whoever polls them hears their beacons."""
    services = compose()["services"]
    words = services["boards"]["command"]
    folder = Path(words[words.index("--keep") + 1])
    (volume,) = services["boards"]["volumes"]
    assert Path(volume.partition(":")[2]) in folder.parents
    assert "--beacons" not in words
    assert "ESPNET_BEACONS" not in services["boards-collector"]["environment"]


def test_a_plain_up_takes_no_collector_away() -> None:
    """How many there are is a setting with a default, two, since one cannot be replaced without a gap; the
    page scales only for an upgrade, to twice as many."""
    told = compose()["services"]["collector"]["deploy"]["replicas"]
    assert told == "${COLLECTORS:-2}"
    assert re.findall(r"--scale collector=(\d+)", PAGE) == ["4"]


def judged(path: Path) -> "subprocess.CompletedProcess[str]":
    """What the Compose Specification's own schema says, which lies in the checker: nothing is fetched."""
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run([*words, path], capture_output=True, text=True)


def test_the_compose_file_is_what_the_specification_says(tmp_path: Path) -> None:
    """It validates; with one key misspelt it would not."""
    done = judged(ROOT / "compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "compose.yaml"
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    assert text.count("read_only: true") == 1
    broken.write_text(text.replace("read_only: true", "readonly: true"))
    done = judged(broken)
    assert done.returncode == 1
    assert "'readonly' was unexpected" in done.stdout


def test_the_redis_of_the_compose_file_is_what_doctor_wants(short_path: Path) -> None:
    """Its command, run as it is by the shell: it wants the password, which no argument shows, keeps its
    data, and throws nothing away."""
    shell, option, script = compose()["services"]["redis"]["command"]
    script = script.replace("docker-entrypoint.sh valkey-server", str(server.binary()))
    script = script.replace("$$", "$").replace("dir /data", f"dir {short_path}")
    # No port in a test; else everything stands as it is in the file.
    script = script.replace("END\n", f"END\nport 0\nunixsocket {short_path}/s\n", 1)
    log = short_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [shell, option, script], env={"REDIS_PASSWORD": "pa55word"}, stdout=output
        )
    try:
        with redis.Redis(unix_socket_path=f"{short_path}/s", password="pa55word") as client:
            deadline = time.monotonic() + 10
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
            wanted = {"appendonly": "yes", "save": "", "maxmemory-policy": "noeviction"}
            assert client.config_get(*wanted) == wanted
        with (
            redis.Redis(unix_socket_path=f"{short_path}/s") as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
        assert b"pa55word" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    finally:
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.parametrize("profile", [(), ("--profile", "simulated")])
def test_docker_compose_understands_it(profile: tuple[str, ...]) -> None:
    """`docker compose config`, or the older `docker-compose`, whichever is there."""
    commands = (["docker", "compose"], ["docker-compose"])
    environ = {**os.environ, "REDIS_PASSWORD": "x"}
    for command in commands:
        if shutil.which(command[0]) is None:
            continue
        if subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            words = [*command, *profile, "config", "--quiet"]
            done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            del environ["REDIS_PASSWORD"]
            done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True)
            assert done.returncode != 0
            assert "openssl rand -hex 32" in done.stderr
            return
    pytest.skip("docker compose is not installed here")


# --- the page -------------------------------------------------------------------------------------


def test_the_page_names_what_is_there() -> None:
    """Units, services and settings of docs/deploy.md exist under these names."""
    for name in re.findall(r"/opt/espnet/(deploy/[\w@.]+)", PAGE):
        assert (ROOT / name).exists()
    assert set(re.findall(r"\b(?:ESPNET|DATADOG)_[A-Z_]+\b", PAGE)) <= settings()
    services = set(compose()["services"])
    used = re.findall(r"docker compose (?:exec|logs)(?: --[\w-]+)* ([\w-]+)", PAGE)
    assert used
    assert set(used) <= services


def test_the_link_to_a_version_is_replaced_and_a_folder_is_not(tmp_path: Path) -> None:
    """The page's own `ln`, in order: after the installation the link leads to the first version, after the
    upgrade to the second. A folder in the way is refused: a link inside it would upgrade nothing."""
    first, second = re.findall(r"^ln .*$", PAGE, re.MULTILINE)
    link = tmp_path / "espnet"
    for number in (1, 2):
        (tmp_path / f"espnet-{number}").mkdir()

    def run(command: str) -> int:
        return subprocess.run(
            shlex.split(command.replace("/opt", str(tmp_path))), capture_output=True
        ).returncode

    for number, command in ((1, first), (2, second)):
        assert run(command) == 0
        assert link.resolve() == (tmp_path / f"espnet-{number}").resolve()
    assert not list((tmp_path / "espnet-1").iterdir())
    link.unlink()
    link.mkdir()
    assert run(second) != 0
    assert not list(link.iterdir())


def test_an_upgrade_stops_the_containers_that_ran_before_and_no_others() -> None:
    """They are noted before new ones start, because their numbers grow with every upgrade; nothing else of
    the machine is cleared away. What .env says stays out of git."""
    upgrade = PAGE.partition("## Upgrades")[2].partition("\n## ")[0]
    lines = upgrade.splitlines()
    noted = lines.index("old=$(docker compose ps --quiet collector)")
    started = next(i for i, line in enumerate(lines) if line.startswith("docker compose up "))
    stopped, removed = lines.index("docker stop $old"), lines.index("docker rm $old")
    assert noted < started < stopped < removed
    assert "prune" not in PAGE
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_a_backup_is_restored_as_the_page_says(own_redis: RedisProcess) -> None:
    """A snapshot, started with `appendonly no` and switched on afterwards, is all there after the next start
    with `appendonly yes`; started with `appendonly yes` at once it is passed over."""
    with redis.Redis.from_url(own_redis.url) as client:
        client.set("written", "before")
        client.save()
    own_redis.stop()
    shutil.rmtree(own_redis.folder / "appendonlydir")
    own_redis.start()
    with redis.Redis.from_url(own_redis.url) as client:
        assert client.dbsize() == 0
    own_redis.kill()
    shutil.rmtree(own_redis.folder / "appendonlydir")
    restoring = RedisProcess(own_redis.folder, durable=False)
    restoring.start()
    with redis.Redis.from_url(restoring.url) as client:
        assert client.get("written") == b"before"
        client.config_set("appendonly", "yes")
        deadline = time.monotonic() + 10
        while client.info("persistence")["aof_rewrite_in_progress"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    restoring.stop()
    own_redis.start()
    with redis.Redis.from_url(own_redis.url) as client:
        assert client.get("written") == b"before"
