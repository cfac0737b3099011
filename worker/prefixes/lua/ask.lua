#!lua
-- ask(who, lead_ms, keep_ms) -> 'go' | 'lead' | 'wait'
-- KEYS[1] string `<P>:warm:<prefix>`: 'warm', or '<since ms> <who>' of whoever goes first; expires.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local value = redis.call('GET', KEYS[1])
if not value then
  redis.call('SET', KEYS[1], string.format('%.0f %s', now, ARGV[1]), 'PX', ARGV[3])
  return 'lead'
end
if value == 'warm' then return 'go' end
local since, who = string.match(value, '^(%d+) (.*)$')
if who == ARGV[1] then return 'lead' end
if now - tonumber(since) < tonumber(ARGV[2]) then return 'wait' end
return 'go'
