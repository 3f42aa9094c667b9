"""Serializers: what each makes is a pickle that anybody reads, with handles as marks and large buffers apart."""

from __future__ import annotations

import json
import marshal
import pickle
import sys
import threading

import numpy as np
import pytest

from distributed.errors import CannotPickle, SerializerMissing
from distributed.wire.functions import pack_function, pack_need, unpack_function
from distributed.wire.pickles import CONTEXT
from distributed.wire.serializers import UseSerializer, serializer, using
from distributed.wire.values import FULL, pack, pack_call, reduce_handle, unpack, unpack_call
from distributed.worker.calls import Functions, Unloadable

PICKLERS = ["pickle", "cloudpickle", "dill"]


class Handle:
    """Stands for a stored value."""

    travels_as_handle = True

    def __init__(self, key):
        self.key = key

    def reference(self):
        return [self.key, 1, 10, []]

    def reduce_outside(self):
        raise AssertionError("outside of a value")

    def __reduce__(self):
        return reduce_handle(self)


class Reversing:
    """A serializer of a user's."""

    def dumps(self, value):
        return pickle.dumps(value)[::-1]

    def loads(self, data):
        return pickle.loads(data[::-1])


ALL = [*PICKLERS, Reversing()]


@pytest.mark.parametrize("how", ALL, ids=str)
@pytest.mark.parametrize("value", [5, "x", b"x", None, [1, [2]], {"x": (1, 2)}, {3, 4}, np.arange(9)], ids=repr)
def test_a_value_comes_back_without_knowing_how_it_was_made(how, value):
    with using(serializer(how)):
        packed = pack(value).tobytes()
        payload, _ = pack_call((value,), {"y": value})
    assert CONTEXT.how is None
    np.testing.assert_equal(unpack(packed), value)
    (one,), rest = unpack_call(payload)
    np.testing.assert_equal([one, rest["y"]], [value, value])


@pytest.mark.parametrize("how", PICKLERS)
@pytest.mark.parametrize("turn", [np.asarray, np.transpose, lambda array: array[::2], np.asfortranarray])
def test_the_bytes_of_arrays_stay_out_of_the_pickle(how, turn):
    array = turn(np.ones((200, 100)))
    with using(serializer(how)):
        packed = pack({"deep": [array]})
    assert packed.tobytes()[0] == FULL
    assert len(packed.pieces()[1]) < 2000, "the pickle"
    np.testing.assert_equal(unpack(packed.tobytes())["deep"][0], array)


@pytest.mark.parametrize("how", ALL, ids=str)
def test_handles_leave_marks_wherever_they_are(how):
    one, other = Handle("c/1"), Handle("c/2")
    chosen = serializer(how)
    deep = {"a": [other]} if chosen.name != "Reversing" else [one, other]
    with using(chosen):
        args = tuple(map(chosen.carry, (one, deep, [one, other], [other])))
        payload, handles = pack_call(args, {})
        packed = pack([one, {"x": other}])
    assert [handle.key for handle in handles] == ["c/1", "c/2"]
    (first, found, several, single), _ = unpack_call(payload, ["one", "two"].__getitem__)
    assert (first, several, single) == ("one", ["one", "two"], ["two"])
    assert found in ({"a": ["two"]}, ["one", "two"])
    assert [handle.key for handle in packed.handles] == ["c/1", "c/2"]
    assert unpack(packed.tobytes(), lambda reference: reference[0]) == ["c/1", {"x": "c/2"}]


def local_class():
    class Local:
        def __init__(self, x):
            self.x = x

        def double(self):
            return Local(2 * self.x)

    return Local


@pytest.mark.parametrize("how", ["cloudpickle", "dill"])
def test_a_class_of_the_program_is_the_same_when_it_comes_back(how):
    local = local_class()
    with using(serializer(how)):
        there = pack(local(3)).tobytes()
        code = pack_function(lambda value: value.double()).code
    back = unpack(there)
    assert type(back) is local
    assert unpack_function(code)(back).x == 6


def test_plain_pickle_takes_what_others_can_import_and_says_where_the_rest_is():
    with using(serializer("pickle")):
        assert unpack_function(pack_function(json.dumps).code) is json.dumps
        with pytest.raises(CannotPickle, match=r"lambda.* is a function .*[Cc]an't (pickle|get)"):
            pack_function(lambda: 1)
        with pytest.raises(CannotPickle, match=r"args\[0\]\['x'\]\[1\] is a .*lock"):
            pack_call(({"x": [1, threading.Lock()]},), {})
        with pytest.raises(CannotPickle, match=r"args\[0\] is a .*Local"):
            pack_call((local_class()(1),), {})


def test_dill_takes_what_no_other_does():
    with using(serializer("dill")):
        packed = pack(threading.Lock()).tobytes()
    assert not unpack(packed).locked()


@pytest.mark.parametrize(("module", "refused"), [(json, {1, 2}), (marshal, object()), (json, {"x": object()})])
def test_what_a_serializer_of_ones_own_refuses_is_named(module, refused):
    how = serializer(module)
    with using(how), pytest.raises(CannotPickle, match=r"args\[1\] is an? (set|object|dict) .*(serial|marshal)"):
        pack_call((1, how.carry(refused)), {})
    with using(how), pytest.raises(CannotPickle, match=r"serializable|marshal"):
        pack(refused, "the result of f")


class Wrong:
    def dumps(self, value):
        return 5

    def loads(self, data):
        raise AssertionError


class Deaf:
    def dumps(self, value):
        return b"said"

    def loads(self, data):
        raise ValueError("what?")


def test_a_serializer_that_does_not_keep_to_the_rules_is_told():
    with using(serializer(Wrong())), pytest.raises(CannotPickle, match=r"Wrong.dumps gave a int, not bytes or text"):
        pack([1])
    with using(serializer(Deaf())):
        packed = pack([1]).tobytes()
    with pytest.raises(ValueError, match="what") as caught:
        unpack(packed)
    assert caught.value.__notes__ == ["(raised while the serializer Deaf read 4 bytes)"]


def test_without_dill_the_name_of_the_extra_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "dill", None)
    with pytest.raises(SerializerMissing, match=r"pip install distributed\[dill\]"):
        serializer("dill")


def needed(how):
    return dict([pack_need(UseSerializer(how), "the serializer")])


def test_an_executor_without_it_says_so_in_the_place_of_the_function(monkeypatch):
    needs, functions = needed(serializer("dill")), Functions()
    monkeypatch.setitem(sys.modules, "dill", None)
    function = functions.prepared(b"f", pack_function(abs).code, needs)
    assert isinstance(function, Unloadable)
    with pytest.raises(SerializerMissing, match="dill here"):
        function(1)
    monkeypatch.undo()
    assert functions.prepared(b"f", b"", needs)(-1) == 1, "it is tried again"


def test_a_module_that_only_the_client_has_is_named(monkeypatch, tmp_path):
    (tmp_path / "only_at_client.py").write_text("from json import dumps, loads")
    monkeypatch.syspath_prepend(tmp_path)
    import only_at_client

    needs = needed(serializer(only_at_client))
    monkeypatch.undo()
    del sys.modules["only_at_client"]
    with pytest.raises(SerializerMissing, match="only_at_client cannot be imported here"):
        Functions().prepared(b"f", pack_function(abs).code, needs)(1)


def test_the_next_pools_tasks_have_the_usual_one_again():
    functions = Functions()
    functions.prepared(b"f", pack_function(abs).code, needed(serializer("pickle")))
    assert (CONTEXT.how.name, functions.how.name) == ("pickle", "pickle")
    functions.prepared(b"f", b"", {})
    assert (CONTEXT.how, functions.how) == (None, None)
