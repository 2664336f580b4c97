"""What `RedisStore` does on the server: one Lua script for each operation, which nothing can come between.

1. All keys of the index have one hash tag, and so one place in a cluster: a script may make their names by itself.
2. Times and numbers that must stay as they are travel as text: Lua would round them.
3. What is written expires by itself, an hour later than by the caller's clock; what is left of it in sorted sets is
   swept by the next writes.
4. A client may send a call twice, since the first answer was lost: what it did is recognised by its random name.
"""

from __future__ import annotations

import hashlib

from ._times import CLOCK_STEP_SECONDS

TIPS_KEPT = 10_000  # endings, for workers that were away
MARKS_IN_A_MESSAGE = 1000
SWEPT_BY_A_WRITE = 20
SWEPT_AT_ONCE = 500
_BACK_AT_ONCE = 1000  # rows whose lease ran out

INDEX_KEYS = ("state", "tips", "marks", "expiry", "before", "open", "leased")


class Script:
    """A script, and what the server calls it by."""

    def __init__(self, *parts: str) -> None:
        self.text = "\n".join(parts)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


# ARGV[1] is the time by the caller's clock.
_INDEX = f"""
local STATE, TIPS, MARKS, EXPIRY, BEFORE, OPEN, LEASED = unpack(KEYS)
local BASE = string.sub(STATE, 1, -6)  -- without "state"
local STEP = {CLOCK_STEP_SECONDS}
local call = redis.call
local now = tonumber(ARGV[1])

local function text(number)
    return string.format('%.0f', number)
end
"""

# Returns the epoch, the last sequence number and the name of the last tip. Here as everywhere the first write is one
# that a server without memory refuses: after it none is, and so a script is done whole or not at all.
_BEGUN = """
local function begun(epoch, tip)
    local state = call('HMGET', STATE, 'epoch', 'sequence', 'tip')
    if state[1] then
        return state[1], tonumber(state[2]), state[3]
    end
    call('HSET', STATE, 'epoch', epoch, 'sequence', 0, 'tip', tip)
    call('DEL', TIPS)
    call('ZADD', TIPS, 0, tip)
    return epoch, 0, tip
end
"""

# A record is its number in the order of recording, its head as JSON (session, keys, issued at, expires at), and its
# data, each but the last with a line feed behind it.
_RECORDS = """
local function head_of(record)
    local first = string.find(record, '\\n', 1, true)
    local second = string.find(record, '\\n', first + 1, true)
    return cjson.decode(string.sub(record, first + 1, second - 1))
end

local function has(list, wanted)
    for _, each in ipairs(list) do
        if each == wanted then
            return true
        end
    end
    return false
end

local function forget(handle, head)
    call('DEL', BASE .. 'record:' .. handle)
    call('ZREM', BASE .. 'session:' .. head[1], handle)
    for _, key in ipairs(head[2]) do
        call('ZREM', BASE .. 'key:' .. key, handle)
    end
end

local function forget_if_expired(handle)
    local record = call('GET', BASE .. 'record:' .. handle)
    local head = record and head_of(record)
    if not head or head[4] > now then
        return 0
    end
    forget(handle, head)
    return 1
end

local function keep(key, milliseconds)
    if call('PTTL', key) < tonumber(milliseconds) then
        call('PEXPIRE', key, milliseconds)
    end
end
"""

_SWEEP = """
local function sweep(limit)
    local over = call('ZRANGEBYSCORE', EXPIRY, '-inf', now - STEP, 'LIMIT', 0, limit)
    for _, name in ipairs(over) do
        call('ZREM', EXPIRY, name)
        call('ZREM', MARKS, name)
        call('HDEL', BEFORE, name)
    end
    return #over
end
"""

_INSERT = f"""
local handle, data, milliseconds = ARGV[2], ARGV[6], ARGV[7]
local header = '[' .. ARGV[3] .. ',' .. ARGV[4] .. ',' .. ARGV[5] .. ']'
local head = cjson.decode(header)
local RECORD = BASE .. 'record:' .. handle

local function is_marked(name)
    local expires_at = call('ZSCORE', EXPIRY, name)
    return expires_at and tonumber(expires_at) > now
end

local function has_ended()
    return is_marked('h' .. handle) or is_marked('s' .. head[1])
end

local function list(set)
    for _, each in ipairs(call('ZRANGEBYSCORE', set, '-inf', now, 'LIMIT', 0, {SWEPT_BY_A_WRITE})) do
        forget_if_expired(each)
        call('ZREM', set, each)
    end
    call('ZADD', set, head[4], handle)
    keep(set, milliseconds)
end

local function insert(old)
    if old then
        forget(handle, head_of(old))
    end
    local number = call('HINCRBY', STATE, 'recorded', 1)
    call('SET', RECORD, text(number) .. '\\n' .. header .. '\\n' .. data, 'PX', milliseconds)
    list(BASE .. 'session:' .. head[1])
    for _, key in ipairs(head[2]) do
        list(BASE .. 'key:' .. key)
    end
    sweep({SWEPT_BY_A_WRITE})
    return 1
end
"""

# now, handle, session, keys, times, data, milliseconds to keep it, whether it is a sign-in
ADD = Script(
    _INDEX,
    _RECORDS,
    _SWEEP,
    _INSERT,
    """
    local function is_ended_by_key()
        for _, key in ipairs(head[2]) do
            if is_marked('k' .. key) and tonumber(call('HGET', BEFORE, 'k' .. key)) >= head[3] then
                return true
            end
        end
        return false
    end

    if has_ended() then
        return 0
    end
    local old = call('GET', RECORD)
    if ARGV[8] == '0' and old and head_of(old)[4] > now then
        return 1
    end
    if ARGV[8] == '0' and is_ended_by_key() then
        return 0
    end
    return insert(old)
    """,
)

# now, handle, session, keys, times, data, milliseconds to keep it
JOIN = Script(
    _INDEX,
    _RECORDS,
    _SWEEP,
    _INSERT,
    """
    if has_ended() then
        return 0
    end
    local old = call('GET', RECORD)
    local old_head = old and head_of(old)
    if old and old_head[4] > now and old_head[1] == head[1] then
        local keys = old_head[2]
        for _, key in ipairs(head[2]) do
            if not has(keys, key) then
                keys[#keys + 1] = key
            end
        end
        head[2] = keys
        if #keys > 0 then
            header = '[' .. ARGV[3] .. ',' .. cjson.encode(keys) .. ',' .. ARGV[5] .. ']'
        end
    end
    return insert(old)
    """,
)

# now, key
FIND = Script(
    _INDEX,
    _RECORDS,
    """
    local found = {}
    for _, handle in ipairs(call('ZRANGEBYSCORE', BASE .. 'key:' .. ARGV[2], '(' .. ARGV[1], '+inf')) do
        local record = call('GET', BASE .. 'record:' .. handle)
        if record and has(head_of(record)[2], ARGV[2]) then
            found[#found + 1] = handle
            found[#found + 1] = record
        end
    end
    return found
    """,
)

# now, tip, epoch and tip of a new store, milliseconds to keep the marks, the ending as JSON, its work if it has any
END = Script(
    _INDEX,
    _BEGUN,
    _RECORDS,
    _SWEEP,
    f"""
    local tip, milliseconds = ARGV[2], ARGV[5]
    local handles, sessions, found_by, spared, key_marks, times, jti, drop = unpack(cjson.decode(ARGV[6]))
    local expires_at, leased_until = times[1], times[2]
    local work = ARGV[7]
    local ROW = BASE .. 'row:' .. tip
    local epoch, sequence, after = begun(ARGV[3], ARGV[4])

    local done = call('ZSCORE', TIPS, tip)
    if done then  -- the client sent it twice
        local records, number = {{}}, 1
        while call('HEXISTS', ROW, number) == 1 do
            records[#records + 1] = call('HGET', ROW, 'h' .. number)
            records[#records + 1] = call('HGET', ROW, number)
            number = number + 1
        end
        return {{1, call('EXISTS', ROW), tonumber(done), 'again', records, {{}}}}
    end

    if jti then
        local name = BASE .. 'jti:' .. jti[1]
        local claimed = call('HMGET', name, 'expires_at', 'by')
        if claimed[1] and tonumber(claimed[1]) > now and claimed[2] ~= tip then
            return {{0, 0, sequence, '', {{}}, {{}}}}
        end
        call('HSET', name, 'expires_at', jti[2], 'by', tip)
        call('PEXPIRE', name, jti[3])
    end

    -- Which sessions end. Records that have expired count: the clock may be set back.
    local ends, order = {{}}, {{}}
    local function end_session(session)
        if not ends[session] then
            ends[session] = true
            order[#order + 1] = session
        end
    end
    for _, session in ipairs(sessions) do
        end_session(session)
    end
    for _, handle in ipairs(handles) do
        local record = call('GET', BASE .. 'record:' .. handle)
        if record then
            end_session(head_of(record)[1])
        end
    end
    for _, key in ipairs(found_by) do
        for _, handle in ipairs(call('ZRANGE', BASE .. 'key:' .. key, 0, -1)) do
            local record = call('GET', BASE .. 'record:' .. handle)
            local head = record and head_of(record)
            if head and has(head[2], key) and not has(spared, head[1]) then
                end_session(head[1])
            end
        end
    end
    if #handles + #order + #key_marks == 0 then
        return {{1, 0, sequence, '', {{}}, {{}}}}
    end

    local last, marks, records = sequence + 1, {{}}, {{}}

    -- Over a mark that is there, a new one ends no less, and no shorter.
    local function mark(name)
        local old = call('ZSCORE', EXPIRY, name)
        if old and tonumber(old) >= tonumber(expires_at) then
            return old, tonumber(old)
        end
        call('ZADD', EXPIRY, expires_at, name)
        return expires_at, old and tonumber(old)
    end
    local function tell(name, before, until_when)
        last = last + 1
        call('ZADD', MARKS, last, name)
        marks[#marks + 1] = {{string.sub(name, 1, 1), string.sub(name, 2), before, text(last), until_when}}
    end

    local dead = {{}}
    local function end_handle(handle)
        if not dead[handle] then
            dead[handle] = true
            tell('h' .. handle, '0', (mark('h' .. handle)))
        end
    end
    for _, handle in ipairs(handles) do
        end_handle(handle)
    end
    for _, session in ipairs(order) do
        mark('s' .. session)
        local set = BASE .. 'session:' .. session
        for _, handle in ipairs(call('ZRANGE', set, 0, -1)) do
            local record = call('GET', BASE .. 'record:' .. handle)
            local head = record and head_of(record)
            if head and head[1] == session then
                records[#records + 1] = handle
                records[#records + 1] = record
                end_handle(handle)
                forget(handle, head)
            end
        end
        call('DEL', set)
    end
    for _, each in ipairs(key_marks) do
        local name, before = 'k' .. each[1], each[2]
        local until_when, old_until = mark(name)
        local old_before = call('HGET', BEFORE, name)
        if old_before and old_until and old_until > now and tonumber(old_before) > tonumber(before) then
            before = old_before
        end
        call('HSET', BEFORE, name, before)
        tell(name, before, until_when)
    end
    keep(EXPIRY, milliseconds)
    if #marks > 0 then
        keep(MARKS, milliseconds)
    end
    if #key_marks > 0 then
        keep(BEFORE, milliseconds)
    end

    -- The token caches of the records: the row, and what stands there. What is removed keeps a version, as by REPLACE.
    local dropped, caches, is_all = {{}}, {{}}, #records > 0
    local function drop_cache(cache)
        local name = drop[1] .. cache
        local row = call('HMGET', name, 'data', 'expires_at')
        call('HSET', name, 'version', drop[2], 'expires_at', drop[3])
        call('HDEL', name, 'data')
        call('PEXPIRE', name, drop[4])
        return row[1] and tonumber(row[2]) > now and row[1]
    end
    if drop then
        local recorded = {{}}
        for at = 1, #records, 2 do
            local handle, cache = records[at], head_of(records[at + 1])[5]
            recorded[handle] = true
            if cache then
                dropped[#dropped + 1] = {{handle, cache, not caches[cache] and drop_cache(cache)}}
                caches[cache] = true
            else
                is_all = false
            end
        end
        for _, handle in ipairs(handles) do
            is_all = is_all and recorded[handle]
        end
    end

    if drop and is_all then
        work = false  -- nothing is left to do
    end
    if work then
        call('HSET', ROW, 'work', work, 'number', text(last), 'leased_at', ARGV[1])
        for number = 1, #records / 2 do
            call('HSET', ROW, 'h' .. number, records[2 * number - 1], number, records[2 * number])
        end
        call('ZADD', LEASED, leased_until, tip)
        local latest = call('HGET', STATE, 'leased_at')
        if not latest or tonumber(latest) < now then
            call('HSET', STATE, 'leased_at', ARGV[1])
        end
    end

    call('HSET', STATE, 'sequence', text(last), 'tip', tip)
    call('ZADD', TIPS, text(last), tip)
    call('ZREMRANGEBYRANK', TIPS, 0, -{TIPS_KEPT + 1})
    sweep({SWEPT_BY_A_WRITE})

    local told = marks
    if #marks > {MARKS_IN_A_MESSAGE} then
        told = cjson.null
    end
    local message = cjson.encode({{epoch, text(sequence), after, text(last), tip, told}})
    call('PUBLISH', BASE .. 'endings', message)
    return {{1, work and 1 or 0, last, message, records, dropped}}
    """,
)

# now, limit, until when they are leased
TAKE = Script(
    _INDEX,
    f"""
    local function back(row)
        local number = call('HGET', BASE .. 'row:' .. row, 'number')
        call('ZREM', LEASED, row)
        if number then
            call('ZADD', OPEN, number, row)
        end
    end

    for _, row in ipairs(call('ZRANGEBYSCORE', LEASED, '-inf', now, 'LIMIT', 0, {_BACK_AT_ONCE})) do
        back(row)
    end
    local latest = call('HGET', STATE, 'leased_at')
    if latest and tonumber(latest) > now + STEP then  -- the clock was set back since: leases of then are void
        for _, row in ipairs(call('ZRANGE', LEASED, 0, -1)) do
            local leased_at = call('HGET', BASE .. 'row:' .. row, 'leased_at')
            if not leased_at or tonumber(leased_at) > now + STEP then
                back(row)
            end
        end
        call('HSET', STATE, 'leased_at', ARGV[1])
    end

    local taken = {{}}
    for _, row in ipairs(call('ZRANGE', OPEN, 0, tonumber(ARGV[2]) - 1)) do
        local ROW = BASE .. 'row:' .. row
        local work = call('HGET', ROW, 'work')
        call('ZREM', OPEN, row)
        if work then
            local records, number = {{}}, 1
            local record = call('HGET', ROW, number)
            while record do
                records[number] = record
                number = number + 1
                record = call('HGET', ROW, number)
            end
            call('ZADD', LEASED, ARGV[3], row)
            call('HSET', ROW, 'leased_at', ARGV[1])
            taken[#taken + 1] = {{row, work, records}}
        end
    end
    if #taken > 0 and (not latest or tonumber(latest) < now) then
        call('HSET', STATE, 'leased_at', ARGV[1])
    end
    return taken
    """,
)

# now, row
FINISH = Script(
    _INDEX,
    """
    call('ZREM', OPEN, ARGV[2])
    call('ZREM', LEASED, ARGV[2])
    return call('DEL', BASE .. 'row:' .. ARGV[2])
    """,
)

# A write, for replicas to acknowledge with all that was written before it.
TOUCH = Script("return redis.call('HINCRBY', KEYS[1], 'touched', 1)")

OPEN_ROWS = Script(_INDEX, "return call('ZCARD', OPEN) + call('ZCARD', LEASED)")

# now, epoch and tip of a new store, sequence and name of the known tip (or ""), cursor (or ""), limit
ASK = Script(
    _INDEX,
    _BEGUN,
    """
    -- A write that changes nothing: a server that was the primary may be a replica by now, and know no more endings.
    local refused = redis.pcall('ZREM', TIPS, '')
    if type(refused) == 'table' and string.find(refused.err, 'READONLY', 1, true) then
        return refused
    end
    local epoch, sequence, tip = begun(ARGV[2], ARGV[3])
    local has_known = 1
    if ARGV[5] ~= '' then
        local known = call('ZSCORE', TIPS, ARGV[5])
        has_known = known and tonumber(known) == tonumber(ARGV[4]) and 1 or 0
    end
    local marks, limit, is_all = {}, tonumber(ARGV[7]), 1
    local cursor = ARGV[6]
    while cursor ~= '' do
        local page = call('ZRANGEBYSCORE', MARKS, '(' .. cursor, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
        cursor = #page == 2 * limit and page[#page] or ''
        for at = 1, #page, 2 do
            local name, number = page[at], page[at + 1]
            local expires_at = call('ZSCORE', EXPIRY, name)
            if #marks < limit and expires_at and tonumber(expires_at) > now then
                local kind, before = string.sub(name, 1, 1), '0'
                if kind == 'k' then
                    before = call('HGET', BEFORE, name) or '0'
                end
                marks[#marks + 1] = {kind, string.sub(name, 2), before, number, expires_at}
            end
        end
        if #marks == limit then
            cursor, is_all = '', 0
        end
    end
    -- A restart or a promotion may have lost what was written last. Who may not ask for that is told nothing.
    local said = redis.pcall('INFO', 'replication')
    local server = type(said) == 'string' and string.match(said, 'master_replid:(%x+)') or ''
    return {epoch, sequence, tip, has_known, is_all, marks, server}
    """,
)

# now, pattern of the records' keys, cursor
SWEEP = Script(
    _INDEX,
    _RECORDS,
    _SWEEP,
    f"""
    local swept = sweep({SWEPT_AT_ONCE})
    if swept == {SWEPT_AT_ONCE} then
        return {{ARGV[3], swept, 1}}
    end
    local scanned = call('SCAN', ARGV[3], 'MATCH', ARGV[2], 'COUNT', {SWEPT_AT_ONCE})
    for _, key in ipairs(scanned[2]) do
        swept = swept + forget_if_expired(string.sub(key, #BASE + 8))
    end
    return {{scanned[1], swept, scanned[1] == '0' and 0 or 1}}
    """,
)

# KEYS: the token cache. ARGV: now, expected version, new version, until when it lives, milliseconds to keep it, data
REPLACE = Script(
    """
    local row = redis.call('HMGET', KEYS[1], 'version', 'expires_at')
    local version = ''
    if row[1] and tonumber(row[2]) > tonumber(ARGV[1]) then
        version = row[1]
    end
    if version == ARGV[3] then  -- the client sent it twice
        return 1
    end
    if version ~= ARGV[2] then
        return 0
    end
    redis.call('HSET', KEYS[1], 'version', ARGV[3], 'expires_at', ARGV[4])
    if ARGV[6] then
        redis.call('HSET', KEYS[1], 'data', ARGV[6])
    else
        redis.call('HDEL', KEYS[1], 'data')
    end
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
    return 1
    """,
)

# KEYS: the token cache. ARGV: now, expected version, new version, data
REPLACE_ROW = Script(
    """
    local row = redis.call('HMGET', KEYS[1], 'version', 'expires_at')
    if redis.call('HEXISTS', KEYS[1], 'data') == 0 or tonumber(row[2]) <= tonumber(ARGV[1]) then
        return 0
    end
    if row[1] == ARGV[3] then  -- the client sent it twice
        return 1
    end
    if row[1] ~= ARGV[2] then
        return 0
    end
    redis.call('HSET', KEYS[1], 'version', ARGV[3], 'data', ARGV[4])
    return 1
    """,
)
