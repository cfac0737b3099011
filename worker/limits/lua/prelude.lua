#!lua
-- Shared by every script of the limits; the line above makes a full server refuse a script before its
-- first write. KEYS[1] is an account's prefix `{P:rl:<account>}:`, the one hash tag. What the numbers
-- mean stands in `worker/core/rates.py`, in the same order and words.
local P = KEYS[1]
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local now = now_ms()
local C = cjson.decode(ARGV[1])
local NAMES = {'requests', 'input_tokens', 'output_tokens'}
local function int(n) return string.format('%.0f', n) end
local GROUP = ARGV[2] or ''
local B, S, G, L = P .. GROUP .. ':b', P .. GROUP .. ':s', P .. GROUP .. ':g', P .. GROUP .. ':l'
local R = P .. GROUP .. ':r'
local STOP, GROUPS = P .. 'stop', P .. 'groups'
local b = {}

-- All that is known of the group, as numbers; what is missing is 0.
local function load()
  local flat = redis.call('HGETALL', B)
  for i = 1, #flat, 2 do b[flat[i]] = flat[i + 1] end
end
local function known(field) return tonumber(b[field] or '0') end
local function put(field, value)
  b[field] = type(value) == 'number' and int(value) or value
  redis.call('HSET', B, field, b[field])
end
local function keep_group()
  redis.call('PEXPIRE', B, C.keep_ms)
  redis.call('SADD', GROUPS, GROUP)
  redis.call('PEXPIRE', GROUPS, C.keep_ms)
end

local function forget_dead()
  for _, grant in ipairs(redis.call('ZRANGEBYSCORE', S, '-inf', int(now))) do redis.call('HDEL', G, grant) end
  redis.call('ZREMRANGEBYSCORE', S, '-inf', int(now))
  redis.call('ZREMRANGEBYSCORE', L, '-inf', int(now - C.turn_ms))
end

-- The limit that holds, 0 for none. `configured` has one for each of NAMES, 0 for none.
local function limit_of(i, configured)
  local own, told = tonumber(configured[i]), known('told.' .. NAMES[i])
  if own == 0 then return told end
  if told == 0 then return own end
  return math.min(own, told)
end
local function burst(limit) return math.max(limit * C.burst_ms, C.unit) end
local function level_of(i, limit)
  local level = b['level.' .. NAMES[i]]
  if not level then return burst(limit) end
  local gained = limit * math.min(math.max(now - known('at.' .. NAMES[i]), 0), C.keep_ms)
  return math.min(burst(limit), tonumber(level) + gained)
end
local function charge(configured, amounts)
  for i = 1, #NAMES do
    local limit = limit_of(i, configured)
    if limit > 0 and amounts[i] ~= 0 then
      put('level.' .. NAMES[i], math.min(level_of(i, limit) - amounts[i] * C.unit, burst(limit)))
      put('at.' .. NAMES[i], now)
    end
  end
end

-- How many calls may be under way; -1 for any number.
local function slots_of(most)
  local slots = -1
  if known('milli') > 0 then slots = math.floor(known('milli') / C.milli) end
  if most > 0 and (slots < 0 or most < slots) then slots = most end
  return slots
end
local function smoothed(average, new)
  if average == 0 then return new end
  return average + math.floor((new - average) / C.smooth)
end
