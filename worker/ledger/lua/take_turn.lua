-- take_turn(duty, owner, for_ms) -> 1 | 0 while it is another's
-- turn:<duty> string: owner, `for_ms`. Said again by its owner it lasts longer.
local key = P .. 'turn:' .. ARGV[1]
local holder = redis.call('GET', key)
if holder and holder ~= ARGV[2] then return 0 end
redis.call('SET', key, ARGV[2], 'PX', ARGV[3])
return 1
