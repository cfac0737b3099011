-- Shared by every journal script. KEYS[1] is the key prefix `{P}:`; it carries the one hash tag.
-- Times are the server's, in ms. Two different session ids never share a key.
local P = KEYS[1]
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local now = now_ms()
local function int(n) return string.format('%.0f', n) end
local function session_key(sid) return P .. 's:' .. sid end
local function journal_key(sid) return P .. 'j:' .. sid end
local function index_key(sid) return P .. 'k:' .. sid end
local function open_key(sid) return P .. 'o:' .. sid end
local function row_key(sid, step) return P .. 't:' .. sid .. '/' .. step end
local function notes_key(sid) return P .. 'a:' .. sid end
local function attempts_key(sid) return P .. 'n:' .. sid end
local DUE = P .. 'due'
local DEAD = P .. 'dead'
local WAITS = P .. 'waits'
local function due_at(sid, step, at) redis.call('ZADD', DUE, int(at), sid .. '/' .. step) end
local function not_due(sid, step) redis.call('ZREM', DUE, sid .. '/' .. step) end
local function is_open(sid) return redis.call('HGET', session_key(sid), 'status') == 'open' end
local function done(sid, step) return redis.call('HEXISTS', index_key(sid), step) == 1 end

-- Append one event under its key; the first one wins.
local function put(sid, key, body, owner, attempt, token)
  if done(sid, key) then return false end
  local head = int(now) .. ' ' .. attempt .. ' ' .. owner .. ' ' .. key .. '\n'
  local n = redis.call('RPUSH', journal_key(sid), head .. body)
  redis.call('HSET', index_key(sid), key, (n - 1) .. ' ' .. token)
  return true
end

-- A session's time stands still as long as a step of it waits; then its deadline moves on by as much.
local function stand_still(sid)
  if redis.call('HINCRBY', session_key(sid), 'waiting', 1) > 1 then return end
  redis.call('HSET', session_key(sid), 'halted_ms', int(now))
  not_due(sid, 'deadline')
end
local function go_on(sid)
  if redis.call('HINCRBY', session_key(sid), 'waiting', -1) > 0 then return end
  local halted = tonumber(redis.call('HGET', session_key(sid), 'halted_ms'))
  redis.call('HDEL', session_key(sid), 'waiting', 'halted_ms')
  local row = row_key(sid, 'deadline')
  local at = redis.call('HGET', row, 'not_before')
  if not at then return end
  at = tonumber(at) + now - halted
  redis.call('HSET', row, 'not_before', int(at))
  due_at(sid, 'deadline', at)
end

-- Make a step due now, unless it is done or there already. Its committer tells the workers at once;
-- `grace_ms` later the sweep does, in case that was lost. One that waits comes with a `queue` of more
-- words: `queue longest_ms needs escrow scope ...`. It is due at its longest time, and nobody is told.
local function announce(sid, step, queue, grace_ms)
  local row = row_key(sid, step)
  if done(sid, step) or redis.call('EXISTS', row) == 1 then return false end
  local attempt = redis.call('HGET', attempts_key(sid), step) or '0'
  local name, longest, waits = string.match(queue, '^(%S+) (%d+) (.*)$')
  if name then
    local at = now + tonumber(longest)
    redis.call('HSET', row, 'queue', name, 'state', 'ready', 'not_before', int(at), 'attempt', attempt,
      'deaths', '0', 'retries', '0', 'tells', '0', 'waits', waits)
    redis.call('SADD', open_key(sid), step)
    stand_still(sid)
    if string.sub(waits, 1, 2) ~= '0 ' then
      redis.call('HSET', WAITS, sid .. '/' .. step, int(now) .. ' ' .. waits)
    end
    due_at(sid, step, at)
    return false
  end
  redis.call('HSET', row, 'queue', queue, 'state', 'ready', 'not_before', int(now), 'attempt', attempt,
    'deaths', '0', 'retries', '0', 'tells', '0')
  redis.call('SADD', open_key(sid), step)
  due_at(sid, step, now + grace_ms)
  return true
end

-- Announce (step, queue) pairs from ARGV[first] on; return those that are new, flat.
local function announce_all(sid, first, grace_ms)
  local told = {}
  for i = first, #ARGV, 2 do
    if announce(sid, ARGV[i], ARGV[i + 1], grace_ms) then
      told[#told + 1] = ARGV[i]
      told[#told + 1] = ARGV[i + 1]
    end
  end
  return told
end

local function forget(sid, step)
  if redis.call('HEXISTS', row_key(sid, step), 'waits') == 1 then
    redis.call('HDEL', WAITS, sid .. '/' .. step)
    go_on(sid)
  end
  redis.call('DEL', row_key(sid, step))
  redis.call('SREM', open_key(sid), step)
  not_due(sid, step)
end

-- Forget a step that is over. One that is not done may be wanted again, such as after a pause: its
-- attempts are counted on, since an attempt's number is in the names of what it has paid for.
local function take_back(sid, step)
  local attempt = redis.call('HGET', row_key(sid, step), 'attempt')
  if attempt and attempt ~= '0' and not done(sid, step) then
    redis.call('HSET', attempts_key(sid), step, attempt)
  end
  forget(sid, step)
end

-- Whether the caller still holds the lease.
local function holds(sid, step, fence)
  local row = redis.call('HMGET', row_key(sid, step), 'state', 'fence')
  return row[1] == 'leased' and row[2] == fence
end

-- Say what befell an attempt, for people: no decision reads it. The newest 500 are kept.
local function note(sid, step, attempt, owner, text)
  local head = int(now) .. ' ' .. attempt .. ' ' .. owner .. ' ' .. step .. '\n'
  redis.call('RPUSH', notes_key(sid), head .. text)
  redis.call('LTRIM', notes_key(sid), -500, -1)
end

-- Record a step that was given up; the newest 1,000 are kept. Numbers are never used again.
local function bury(sid, step, attempt, deaths, reason)
  local number = redis.call('HINCRBY', DEAD, 'last', 1)
  local head = int(now) .. ' ' .. attempt .. ' ' .. deaths .. ' ' .. sid .. ' ' .. step .. '\n'
  redis.call('HSET', DEAD, int(number), head .. reason)
  redis.call('HDEL', DEAD, int(number - 1000))
end

-- With nothing under way, or too little of what could be, somebody must ask the core what comes next.
local function drive_if_below(sid, least)
  if redis.call('SCARD', open_key(sid)) >= least then return 0 end
  due_at(sid, 'drive', now)
  return 1
end
