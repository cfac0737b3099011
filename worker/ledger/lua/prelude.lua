#!lua
-- Shared by every ledger script; the line above makes a full server refuse a script before its first
-- write, never in the middle of it. KEYS[1] is the key prefix `{P}:bud:` with the one hash tag.
-- Amounts are whole nano-dollars, stored as integer strings. Times are the server's, in ms.
local P = KEYS[1]
local OPEN, NAMES, META, LOG = P .. 'open', P .. 'names', P .. 'meta', P .. 'j'
local MAX = 9007199254740991
-- So many transitions may wait for the archive, some 100 MB; with more of them nothing new is held.
local MOST_UNARCHIVED = 500000
local FIELDS = {'cap', 'posted', 'held', 'unknown', 'breach', 'frozen', 'closed'}

local function account_key(scope) return P .. 'a:' .. scope end
local function reservation_key(rid) return P .. 'r:' .. rid end
local function int(n) return string.format('%.0f', n) end
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
-- A number from outside: whole, and small enough that a double holds it exactly.
local function amount(text)
  local n = tonumber(text)
  if not n or n < 0 or n > MAX or n ~= math.floor(n) then error('not an amount: ' .. tostring(text)) end
  return n
end
local function session_of(scope) return string.match(scope, '^session:(.+)$') end
local function each_scope(names) return string.gmatch(names, '%S+') end
local function log(op, ...)
  redis.call('XADD', LOG, '*', 'op', op, ...)
end
local function killed() return redis.call('HGET', META, 'kill') == '1' end
local function fields_of(scope) return redis.call('HMGET', account_key(scope), unpack(FIELDS)) end

-- (state, amount, scopes) of a reservation; state is false where there is none.
local function standing(rid)
  local r = redis.call('HMGET', reservation_key(rid), 'state', 'amount', 'scopes')
  return r[1], r[2] and amount(r[2]), r[3]
end
local function is_open(state) return state == 'held' or state == 'sent' end

local function promises_key(scope) return P .. 'p:' .. scope end
-- What was promised of an account to others than `sid`, and is not used yet.
local function promised(scope, sid)
  local sum, all = 0, redis.call('HGETALL', promises_key(scope))
  for i = 1, #all, 2 do
    if all[i] ~= sid then
      local a = redis.call('HMGET', account_key('session:' .. all[i]), 'posted', 'held')
      sum = sum + math.max(all[i + 1] - (a[1] or 0) - (a[2] or 0), 0)
    end
  end
  return sum
end

-- Add to (field, delta) pairs of every account in `names`.
local function add(names, ...)
  local deltas = {...}
  for scope in each_scope(names) do
    for i = 1, #deltas, 2 do
      if deltas[i + 1] ~= 0 then redis.call('HINCRBY', account_key(scope), deltas[i], int(deltas[i + 1])) end
    end
  end
end

-- Nothing of a session is kept for ever.
local function keep(names, keep_ms)
  for scope in each_scope(names) do
    local session = session_of(scope)
    if session then
      redis.call('PEXPIRE', account_key(scope), keep_ms)
      redis.call('PEXPIRE', P .. 's:' .. session, keep_ms)
    end
  end
end

-- A reservation has ended: it has no deadline any more, and goes in `keep_ms`.
local function ended(rid, names, keep_ms)
  redis.call('ZREM', OPEN, rid)
  redis.call('PEXPIRE', reservation_key(rid), keep_ms)
  keep(names, keep_ms)
end

-- Give a hold back, or what was charged for an unknown outcome.
local function free_again(rid, state, amt, names, why, keep_ms)
  if state == 'expired' then add(names, 'posted', -amt, 'unknown', -amt) else add(names, 'held', -amt) end
  redis.call('HSET', reservation_key(rid), 'state', 'void', 'actual', '0', 'why', why, 'ended_ms', int(now_ms()))
  ended(rid, names, keep_ms)
  log('void', 'id', rid, 'from', state, 'why', why)
end

-- Hold `name` again, whose place a call had taken that came to nothing: its accounts `names` have just
-- got `amt` back. Whole where there is room; but never less than the call held, if it was that much.
local function hold_again(name, amt, names)
  local r = redis.call('HMGET', reservation_key(name), 'state', 'amount', 'scopes', 'deadline')
  if r[1] ~= 'void' or not r[4] then return end
  local had = {}
  for scope in each_scope(names) do had[scope] = amt end
  local again = amount(r[2])
  for scope in each_scope(r[3]) do
    local a = fields_of(scope)
    again = math.min(again, math.max(a[1] - a[2] - a[3], had[scope] or 0))
  end
  if again <= 0 then return end
  add(r[3], 'held', again)
  redis.call('HSET', reservation_key(name), 'state', 'held', 'amount', int(again), 'why', '')
  redis.call('HDEL', reservation_key(name), 'replaced_by', 'deadline', 'ended_ms')
  redis.call('PERSIST', reservation_key(name))
  redis.call('ZADD', OPEN, r[4], name)
  log('hold_again', 'id', name, 'amount', int(again), 'scopes', r[3])
end

-- Give back what was not billed; the hold that an open call had taken the place of stands again.
local function give_back(rid, state, amt, names, why, keep_ms)
  free_again(rid, state, amt, names, why, keep_ms)
  local name = redis.call('HGET', reservation_key(rid), 'stands_for')
  if name and is_open(state) then hold_again(name, amt, names) end
end

-- Charge a reservation at its bound.
local function charge_bound(rid, state, amt, names, why, keep_ms)
  add(names, 'held', -amt, 'posted', amt, 'unknown', amt)
  redis.call('HSET', reservation_key(rid), 'state', 'expired', 'actual', int(amt), 'why', why, 'ended_ms',
    int(now_ms()))
  ended(rid, names, keep_ms)
  log('expire', 'id', rid, 'from', state, 'amount', int(amt), 'why', why)
end
