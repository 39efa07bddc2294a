"""The files of serving/ are what the server and Docker read, and name what is there."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,  # noqa: F401 - registers what the messages below hold
)
from nets_and_images import LABELS, network
from stand_in import StandIn
from tensorflow_serving.config import model_server_config_pb2

from zoo.serving import exporting, signatures

FOLDER = Path(__file__).parents[2] / "serving"
COMPOSE = (FOLDER / "docker-compose.yml").read_text("utf-8")
# tensorflow_serving/servables/tensorflow/session_bundle_config.proto and
# tensorflow_serving/config/monitoring_config.proto, which tensorflow-serving-api leaves out.
LEFT_OUT = """
name: "left_out.proto" package: "tensorflow.serving" syntax: "proto3"
dependency: "google/protobuf/wrappers.proto"
message_type { name: "BatchingParameters"
  field { name: "max_batch_size" number: 1 type: TYPE_MESSAGE label: LABEL_OPTIONAL
          type_name: ".google.protobuf.Int64Value" }
  field { name: "batch_timeout_micros" number: 2 type: TYPE_MESSAGE label: LABEL_OPTIONAL
          type_name: ".google.protobuf.Int64Value" }
  field { name: "max_enqueued_batches" number: 3 type: TYPE_MESSAGE label: LABEL_OPTIONAL
          type_name: ".google.protobuf.Int64Value" }
  field { name: "num_batch_threads" number: 4 type: TYPE_MESSAGE label: LABEL_OPTIONAL
          type_name: ".google.protobuf.Int64Value" }
  field { name: "thread_pool_name" number: 5 type: TYPE_MESSAGE label: LABEL_OPTIONAL
          type_name: ".google.protobuf.StringValue" }
  field { name: "allowed_batch_sizes" number: 6 type: TYPE_INT64 label: LABEL_REPEATED }
  field { name: "pad_variable_length_inputs" number: 7 type: TYPE_BOOL label: LABEL_OPTIONAL } }
message_type { name: "PrometheusConfig"
  field { name: "enable" number: 1 type: TYPE_BOOL label: LABEL_OPTIONAL }
  field { name: "path" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "MonitoringConfig"
  field { name: "prometheus_config" number: 1 type: TYPE_MESSAGE label: LABEL_OPTIONAL
          type_name: ".tensorflow.serving.PrometheusConfig" } }
"""


@pytest.fixture(scope="module")
def messages():
    pool = descriptor_pool.Default()
    try:
        file = pool.FindFileByName("left_out.proto")
    except KeyError:
        proto = text_format.Parse(LEFT_OUT, descriptor_pb2.FileDescriptorProto())
        pool.AddSerializedFile(proto.SerializeToString())
        file = pool.FindFileByName("left_out.proto")
    return {
        name: message_factory.GetMessageClass(message)
        for name, message in file.message_types_by_name.items()
    }


def parsed(name, message):
    return text_format.Parse((FOLDER / name).read_text("utf-8"), message)


def models():
    found = parsed("models.config", model_server_config_pb2.ModelServerConfig())
    return found.model_config_list.config


def test_each_model_of_the_configuration_has_a_folder_of_its_name():
    assert [model.base_path for model in models()] == [f"/models/{m.name}" for m in models()]
    assert all(model.model_platform == "tensorflow" for model in models())


def test_the_roll_back_in_the_comment_parses_too():
    text = (FOLDER / "models.config").read_text("utf-8").replace("# model_version", "model_version")
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert list(model.model_version_policy.specific.versions) == [1]


def test_the_batch_sizes_rise_to_the_largest(messages):
    batching = parsed("batching.config", messages["BatchingParameters"]())
    sizes = list(batching.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == batching.max_batch_size.value
    assert batching.num_batch_threads.value > 0
    # A batch of several requests that an export refuses would fail all of them.
    assert batching.max_batch_size.value == signatures.LEAST_MAX_BATCH


def test_a_number_without_its_message_is_refused(messages):
    with pytest.raises(text_format.ParseError):
        text_format.Parse("max_batch_size: 64", messages["BatchingParameters"]())


def test_monitoring_is_on_where_the_page_says(messages):
    monitoring = parsed("monitoring.config", messages["MonitoringConfig"]())
    assert monitoring.prometheus_config.enable
    page = (FOLDER / "README.md").read_text("utf-8")
    assert f":8501{monitoring.prometheus_config.path}`" in page


def service():
    def default(matched):
        return matched[1] or ""

    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", default, COMPOSE))["services"]["serving"]


def test_the_compose_file_mounts_and_names_what_is_there():
    mounts = dict(volume.split(":")[1::-1] for volume in service()["volumes"])
    assert (FOLDER / mounts["/config"]).samefile(FOLDER)
    assert (FOLDER / mounts["/models"]).resolve() == FOLDER.parent / "saved_models"
    for flag in service()["command"]:
        file = flag.partition("=")[2]
        if file.startswith("/config/"):
            assert (FOLDER / file.removeprefix("/config/")).is_file(), flag
    assert {port.rsplit(":", 1)[0] for port in service()["ports"]} == {
        "127.0.0.1:8500",
        "127.0.0.1:8501",
    }
    assert not [flag for flag in service()["command"] if "xla" in flag or "method_name" in flag]


def test_the_container_may_do_little():
    settings = service()
    user, group = settings["user"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert settings["read_only"] is True
    (temporary,) = settings["tmpfs"]
    assert "noexec" in temporary
    assert "size=" in temporary
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings["mem_limit"] == settings["memswap_limit"] == "2g"
    assert float(settings["cpus"]) > 0
    assert settings["pids_limit"] > 0
    assert all(volume.endswith(":ro") for volume in settings["volumes"])
    assert not {"privileged", "network_mode", "pid", "ipc", "cap_add", "devices"} & set(settings)
    assert re.search(r"image: \$\{TFS_IMAGE:-tensorflow/serving:[\d.]+\}", COMPOSE)


def test_the_health_check_asks_a_model_that_is_loaded(tmp_path):
    *_, line = service()["healthcheck"]["test"]
    (name,) = [model.name for model in models()]
    assert f"/v1/models/{name}:predict " in line
    length, body = re.search(r"Content-Length: (\d+)\\r.*? '([^']*)'", line).groups()
    assert int(length) == len(body)
    base = tmp_path / name
    version = exporting.export_savedmodel(network(), LABELS, base)
    (base / "1").rename(tmp_path / "aside")

    def healthy(stand_in):
        command = line.replace("8501", str(stand_in.rest_port))
        environment = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(["bash", "-c", command], env=environment, timeout=60).returncode == 0

    with StandIn({name: base}, poll_seconds=60) as stand_in:
        assert not healthy(stand_in), "no version is loaded"
        (tmp_path / "aside").rename(version)
        stand_in.models[name].poll()
        assert healthy(stand_in)
    assert not healthy(stand_in), "there is no server"


def test_the_page_has_the_flags_and_variables_of_the_files():
    page = (FOLDER / "README.md").read_text("utf-8")
    for variable in re.findall(r"\$\{(\w+)", COMPOSE):
        assert variable in page, variable
    for target in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (FOLDER / target).exists(), target
