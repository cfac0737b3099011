-- doubt(epoch, why) -> 1 | 0 where another epoch stands there
-- meta hash: doubt. Nothing is reserved under this epoch any more.
if redis.call('HGET', META, 'epoch') ~= ARGV[1] then return 0 end
redis.call('HSET', META, 'doubt', ARGV[2])
return 1
