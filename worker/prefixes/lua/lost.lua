#!lua
-- lost(who, sent 0|1) -> 1 | 0 (somebody else goes first, or nobody)
-- KEYS[1] string `<P>:warm:<prefix>`. Sent: all others go now, and nobody first, until it expires.
-- Not sent: the next one goes first.
local value = redis.call('GET', KEYS[1])
if not value or value == 'warm' then return 0 end
if string.match(value, '^%d+ (.*)$') ~= ARGV[1] then return 0 end
if ARGV[2] == '1' then
  redis.call('SET', KEYS[1], '0 ' .. ARGV[1], 'KEEPTTL')
else
  redis.call('DEL', KEYS[1])
end
return 1
