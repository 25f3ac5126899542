"""Small scripts, each of which would notice one thing that is not as under plain Python."""

from __future__ import annotations

SCRIPTS: dict[str, str] = {
    "main module": """
        import sys, __main__
        print(__name__, __main__ is sys.modules["__main__"], vars(__main__) is globals())
        for key, value in list(globals().items()):
            print(key, type(value).__name__, value if isinstance(value, (str, dict)) else "")
        print(__loader__.name, __loader__.path, __loader__.get_filename("__main__"))
        """,
    "docstring and annotations": '''
        """What it is for."""
        from __future__ import annotations
        import typing
        count: int = 3
        class A:
            x: int
        print(__doc__, __annotations__, typing.get_type_hints(A), A.__annotations__)
        ''',
    "arguments": """
        import os, sys
        print(sys.argv, sys.path, os.getcwd(), sys.flags, sys.executable)
        """,
    "output of both kinds": """
        import sys
        print("to stdout"); print("to stderr", file=sys.stderr); sys.stdout.write("no newline")
        """,
    "own source": """
        import inspect, linecache
        def f(x):
            return x + 1
        print(open(__file__).read())
        print(inspect.getsource(f), inspect.getsourcefile(f), f.__module__, f.__code__.co_filename)
        """,
    "exception": """
        import sys
        print("before")
        def f():
            raise ValueError("wrong")
        f()
        """,
    "chained exceptions": """
        def f():
            try:
                {}["a"]
            except KeyError as error:
                raise ValueError("wrong") from error
        try:
            f()
        except ValueError:
            1 / 0
        """,
    "exception group and note": """
        error = ValueError("one")
        error.add_note("a note")
        raise ExceptionGroup("several", [error, TypeError("two")])
        """,
    "raised again": """
        import sys
        try:
            1 / 0
        except ZeroDivisionError as error:
            raise error
        """,
    "without traceback": "raise ValueError('x').with_traceback(None) from None",
    "deep recursion": """
        def f(n):
            return f(n + 1)
        f(0)
        """,
    "syntax error": "x = (1,\ny = 2\n",
    "indentation error": "if True:\n    x = 1\n  y = 2\n",
    "tab error": "if True:\n        x = 1\n\ty = 2\n",
    "syntax error found late": "print('never')\nreturn 3\n",
    "syntax error in eval": "eval('1 +')",
    "syntax warning": "x = 1\nprint(x is 1)\n",
    "deprecation warning": """
        import warnings
        warnings.warn("old", DeprecationWarning)
        def f():
            warnings.warn("of the caller", stacklevel=2)
        f()
        """,
    "exit 0": "import sys; sys.exit()",
    "exit 3": "import sys; print('x'); sys.exit(3)",
    "exit -1": "import sys; sys.exit(-1)",
    "exit 256": "import sys; sys.exit(256)",
    "exit huge": "import sys; sys.exit(2 ** 70)",
    "exit True": "raise SystemExit(True)",
    "exit text": "import sys; print('x'); sys.exit('a message')",
    "exit tuple": "raise SystemExit(1, 2)",
    "exit subclass": "class Stop(SystemExit): pass\nraise Stop(4)",
    "exit at once": "import os; print('x', flush=True); os._exit(5)",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "terminated": "import os, signal; print('lost'); os.kill(os.getpid(), signal.SIGTERM)",
    "own handler": """
        import os, signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        print(signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGPIPE))
        os.kill(os.getpid(), signal.SIGTERM)
        """,
    "interrupted": """
        import atexit, os, signal, sys, time
        atexit.register(lambda: print("at exit", type(sys.last_value), sys.excepthook))
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        """,
    "interrupt subclass": "class Mine(KeyboardInterrupt): pass\nraise Mine('x')",
    "exit handlers": """
        import atexit, sys, threading, time, __main__
        def late(): time.sleep(0.1); print("thread")
        atexit.register(print, "first registered")
        atexit.register(lambda: print("second", hasattr(__main__, "__file__"), sys.argv))
        threading.Thread(target=late).start()
        class A:
            def __del__(self): print("deleted")
        a = A()
        print("end")
        """,
    "exit handlers and exit": """
        import atexit, sys, __main__
        atexit.register(lambda: print(hasattr(__main__, "__file__")))
        sys.exit(2)
        """,
    "exit handler raises": """
        import atexit
        class Handler:
            def __call__(self): raise ValueError("x")
            def __repr__(self): return "handler"
        atexit.register(Handler())
        """,
    "last exception": """
        import atexit, sys, traceback
        @atexit.register
        def f():
            print(sys.last_type, sys.last_value, sys.last_traceback.tb_lineno)
            print(sys.last_value.__traceback__ is sys.last_traceback)
            traceback.print_tb(sys.last_traceback)
        1 / 0
        """,
    "own excepthook": """
        import sys, traceback
        def hook(kind, value, trace):
            print("mine", kind, value, [f.name for f in traceback.extract_tb(trace)])
        sys.excepthook = hook
        1 / 0
        """,
    "excepthook raises": """
        import sys
        def hook(*_):
            raise TypeError("hook")
        sys.excepthook = hook
        1 / 0
        """,
    "excepthook exits": """
        import sys
        sys.excepthook = lambda *_: sys.exit(9)
        1 / 0
        """,
    "excepthook missing": "import sys; del sys.excepthook; 1 / 0",
    "thread raises": """
        import sys, threading
        def f(): raise ValueError("in a thread")
        def g(): sys.exit(8)
        for work in (f, g):
            t = threading.Thread(target=work, name="worker"); t.start(); t.join()
        """,
    "reads stdin": "print(input('name? '), input()); import sys; print(sys.stdin.read())",
    "stdin ends": "input(); input(); input(); input()",
    "changes folder": "import os; os.chdir('/'); print(os.getcwd(), __file__); 1 / 0",
    "broken pipe": "import os, sys; os.close(1); print('x')",
    "no stderr": "import sys; sys.stderr = None; 1 / 0",
    "pickles its classes": """
        import copy, pickle
        class A:
            def __eq__(self, other): return isinstance(other, A)
        def f(): pass
        print(pickle.loads(pickle.dumps(A())) == A(), pickle.loads(pickle.dumps(f)) is f, A)
        """,
    "forks": """
        import os
        pid = os.fork()
        if pid:
            print("parent", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        else:
            raise ValueError("child")
        """,
    "multiprocessing": """
        import multiprocessing as mp, sys
        print("imported as", __name__, flush=True)
        class A: pass
        def work(x): return type(x).__name__, __name__, sys.argv
        if __name__ == "__main__":
            for method in ("fork", "spawn"):
                with mp.get_context(method).Pool(1) as pool:
                    print(method, pool.map(work, [A()]), flush=True)
        """,
    "imports a neighbour": "import neighbour; print(neighbour.__file__, neighbour.VALUE)",
    "imports itself": "import sys\nprint(__name__)\nif __name__ == '__main__': import script",
    "relative import": "from . import neighbour",
    "argparse": """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--steps", type=int)
        parser.parse_args()
        """,
    "random numbers": """
        import random
        random.seed(0); print(random.random()); print(hash("a") == hash("a"))
        """,
    "nothing heavy is imported": """
        import sys
        print([m for m in ("torch", "numpy", "rich", "multiprocessing") if m in sys.modules])
        """,
}

RARE = {
    "deprecation warning", "exception group and note", "excepthook missing", "exit -1", "exit 256",
    "exit True", "exit at once", "exit handler raises", "exit handlers and exit", "exit huge",
    "exit subclass", "exit tuple", "forks", "imports a neighbour", "interrupt subclass", "killed",
    "raised again", "random numbers", "relative import", "stdin ends", "syntax error found late",
    "syntax error in eval", "tab error", "terminated", "thread raises", "without traceback",
}  # fmt: skip
"""Left to the slow suite, as another script asks nearly the same."""

MODULES: dict[str, str] = {
    "shop.train": "a module of a package",
    "shop": "a package with __main__",
    "alone": "a module without package",
    "shop.fails": "raises",
    "shop.stops": "exits with a message",
    "shop.garbled": "does not parse",
    "shop.missing": "is not there",
    "shop.interrupted": "is interrupted",
    "shop.plain": "is a package without __main__",
}

_TELL = """
import sys
print(__name__, __package__, __file__, __spec__.name, __cached__, __doc__, __loader__.name)
print(sys.argv, sys.path[0], list(globals())[:9])
"""

PACKAGE: dict[str, str] = {
    "shop/__init__.py": "import sys; print('init', sys.argv)\n",
    "shop/__main__.py": "from .train import VALUE\n" + _TELL,
    "shop/train.py": "VALUE = 1\nfrom . import __name__ as package\nprint(package)\n" + _TELL,
    "shop/fails.py": "def f():\n    raise ValueError('x')\nf()\n",
    "shop/stops.py": "import sys; sys.exit('enough')\n",
    "shop/garbled.py": "x = (\n",
    "shop/interrupted.py": "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n",
    "shop/plain/__init__.py": "",
    "alone.py": _TELL,
}
