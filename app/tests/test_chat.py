"""The story a newcomer reads first: what the service is for, told by using it.

Every step speaks HTTP to a real server on a real PostgreSQL.
"""

from app.tests.harness import Chat, Service, problem

RETRIEVED = {
    "query": "How many days of parental leave?",
    "documents": [
        {"document_id": "hr/leave.md", "chunk_id": "hr/leave.md#2", "text": "Parental leave is 60 days.", "score": 8.1},
        {"document_id": "hr/pay.md", "chunk_id": "hr/pay.md#7", "text": "Pay continues in full.", "score": 5.25},
    ],
}


async def test_health_needs_the_key_and_tells_of_the_database(chat: Chat) -> None:
    response = await chat.get("/health")
    assert response.status_code == 200
    assert response.json()["status"] == "healthy"
    assert response.json()["database"] == "up"


async def test_without_a_key_nothing_is_answered(service: Service) -> None:
    async with Chat(service.url, "wrong") as nobody:
        for path in ("/health", "/chat/sessions", "/no/such/path"):
            problem(await nobody.get(path), 401, "unauthorized")


async def test_a_session_is_created(chat: Chat) -> None:
    response = await chat.post("/chat/sessions", json={"user_id": "ada", "name": "Leave"})
    assert response.status_code == 201
    session = response.json()
    assert response.headers["location"] == f"/chat/sessions/{session['id']}"
    assert (session["user_id"], session["name"], session["is_favorite"]) == ("ada", "Leave", False)
    assert (await chat.get(response.headers["location"])).json() == session


async def test_a_session_is_renamed_and_marked_as_a_favorite(chat: Chat) -> None:
    session = await chat.create(name="Leave")
    path = f"/chat/sessions/{session['id']}"
    assert (await chat.put(path, json={"name": "Parental leave"})).json()["name"] == "Parental leave"
    assert (await chat.put(path, json={"is_favorite": True})).json()["is_favorite"] is True
    assert [found["id"] for found in (await chat.sessions(is_favorite="true"))["sessions"]] == [session["id"]]


async def test_a_question_and_its_answer_are_kept_with_what_was_retrieved(chat: Chat) -> None:
    session = await chat.create(name="Leave")
    question = await chat.append(session, "How many days of parental leave?")
    answer = await chat.append(session, "60 days, fully paid.", sender="assistant", context=RETRIEVED)
    assert (question["seq"], answer["seq"]) == (1, 2)
    assert question["context"] is None
    assert answer["context"] == RETRIEVED
    history = await chat.messages(session)
    assert history == {"messages": [question, answer], "total": 2, "page": 1, "page_size": 20}


async def test_a_long_history_is_read_page_by_page(chat: Chat) -> None:
    session = await chat.create()
    for number in range(1, 8):
        await chat.append(session, f"message {number}")
    pages = [await chat.messages(session, page=page, page_size=3) for page in (1, 2, 3, 4)]
    assert [[message["seq"] for message in page["messages"]] for page in pages] == [[1, 2, 3], [4, 5, 6], [7], []]
    assert {page["total"] for page in pages} == {7}
    newest = await chat.messages(session, order="desc", page_size=2)
    assert [message["content"] for message in newest["messages"]] == ["message 7", "message 6"]


async def test_a_deleted_session_takes_its_messages_along(chat: Chat) -> None:
    session = await chat.create(name="Leave")
    message = await chat.append(session)
    path = f"/chat/sessions/{session['id']}"
    assert (await chat.delete(path)).status_code == 204
    for gone in (path, f"{path}/messages", f"{path}/messages/{message['id']}"):
        problem(await chat.get(gone), 404, "not_found")
    problem(await chat.delete(path), 404, "not_found")


async def test_nobody_sees_the_sessions_of_another_tenant(chat: Chat, stranger: Chat) -> None:
    session = await chat.create(name="Leave")
    await chat.append(session)
    path = f"/chat/sessions/{session['id']}"
    for response in (
        await stranger.get(path),
        await stranger.put(path, json={"name": "mine"}),
        await stranger.delete(path),
        await stranger.get(f"{path}/messages"),
        await stranger.post(f"{path}/messages", json={"sender": "user", "content": "hello"}),
    ):
        problem(response, 404, "not_found")
    assert (await stranger.sessions())["sessions"] == []
    assert (await chat.messages(session))["total"] == 1
