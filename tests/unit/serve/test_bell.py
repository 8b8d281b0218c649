import asyncio
import threading

from edgemodel.serve.bell import Bell


def test_what_threads_ask_for_is_done_in_the_loop_and_in_order() -> None:
    found: list[tuple[int, int]] = []
    where: set[int] = set()

    async def main() -> None:
        bell = Bell(asyncio.get_running_loop())
        done = asyncio.Event()

        def note(thread: int, number: int) -> None:
            where.add(threading.get_ident())
            found.append((thread, number))
            if len(found) == 20_000:
                done.set()

        def ring(thread: int) -> None:
            for number in range(5000):  # all of them more than a pipe holds
                bell.call(note, thread, number)

        threads = [threading.Thread(target=ring, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        await asyncio.wait_for(done.wait(), 60)
        for thread in threads:
            thread.join()
        bell.close()

    asyncio.run(main())
    assert where == {threading.get_ident()}
    for thread in range(4):
        assert [number for each, number in found if each == thread] == list(range(5000))


def test_what_is_left_is_done_when_it_closes() -> None:
    found: list[int] = []

    async def main() -> None:
        bell = Bell(asyncio.get_running_loop())
        bell.call(found.append, 1)
        bell.close()

    asyncio.run(main())
    assert found == [1]
